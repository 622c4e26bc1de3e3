"""Official clients from npm, and the official conformance suite."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from conftest import MODERN, OPENBRAIN

NODE = os.environ["TEST_NODE"]
MODULES = Path(os.environ["TEST_NODE_MODULES"]) / "@modelcontextprotocol"
HERE = Path(__file__).parent


def node(home, *arguments, timeout=120):
    command = [NODE, *map(str, arguments)]
    environment = {**home.env, "PATH": f"{Path(NODE).parent}:{home.env['PATH']}"}
    return subprocess.run(
        command, cwd=home.path, env=environment, capture_output=True, text=True, timeout=timeout
    )


INSPECTOR = MODULES / "inspector/clients/launcher/build/index.js"


def inspect(home, *arguments):
    """The MCP inspector without its window."""
    call = ["--method", "tools/call", "--tool-name", "exec_command"]
    ran = node(home, INSPECTOR, "--cli", *arguments, *call, "--tool-arg", "command=echo inspected")
    assert ran.returncode == 0, ran
    return json.loads(ran.stdout)


def test_the_inspector_calls_the_tool_over_both_transports(home):
    over_stdio = inspect(home, OPENBRAIN, "mcp")
    with home.serve() as (address, _):
        over_http = inspect(home, address + "/mcp", "--transport", "http")
    for result in (over_stdio, over_http):
        assert result["structuredContent"]["stdout"] == "inspected\n", result


@pytest.mark.parametrize("revision", ["2025-11-25", MODERN])
def test_the_server_conforms(home, revision):
    # The suite sends its commands to a server that runs none on the host.
    home.settings("security:\n  mode: sandbox\n  allow_direct: false\n")
    suite = MODULES / "conformance/dist/index.js"
    failures = HERE / f"expected-failures-{revision}.yaml"
    with home.serve() as (address, _):
        ran = node(
            home,
            *[suite, "server", "--url", address + "/mcp", "--requirements", revision],
            *["--expected-failures", failures],
        )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "Passed" in ran.stdout or "passed" in ran.stdout, ran.stdout
