"""The configurations of docs/mcp.md start a server that answers."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from conftest import OPENBRAIN

pytestmark = pytest.mark.anyio

DOCUMENT = (Path(__file__).parents[3] / "docs/mcp.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.S)


def servers():
    for text in blocks("json"):
        configuration = json.loads(text)
        yield from (configuration.get("mcpServers") or configuration["servers"]).values()
    for text in blocks("toml"):
        yield from tomllib.loads(text)["mcp_servers"].values()


async def works(client):
    async with client:
        result = await client.call_tool("exec_command", {"command": "echo hello"})
        assert result.structured_content["stdout"] == "hello\n"


async def test_the_documented_configurations_work(home):
    documented = list(servers())
    assert len(documented) == 4
    for server in documented:
        if "url" in server:
            with home.serve() as (address, _):
                url = server["url"].replace("http://127.0.0.1:8000", address)
                await works(Client(url))
            continue
        assert server["command"] == "openbrain"
        start = StdioServerParameters(
            command=OPENBRAIN, args=server["args"], env=home.env, cwd=str(home.path)
        )
        await works(Client(start))


async def test_the_documented_settings_are_valid(home):
    for text in blocks("yaml"):
        home.settings(text)
        async with Client(home.stdio()) as client:
            assert (await client.list_tools()).tools
