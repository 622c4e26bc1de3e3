"""A person agrees before a command runs on the host, or it does not run."""

import pytest
from mcp_types import ElicitResult

pytestmark = pytest.mark.anyio

SETTINGS = "security:\n  approval: direct\n"


def person(decision, asked):
    """Somebody who decides always the same, and remembers what was asked."""

    async def decide(_context, question):
        asked.append(question.message)
        if decision is None:
            return ElicitResult(action="decline")
        options = str(question.requested_schema)
        choices = [option for option in CHOICES if decision in option and option in options]
        if not choices:
            return ElicitResult(action="cancel")
        return ElicitResult(action="accept", content={"decision": choices[0]})

    return decide


CHOICES = [
    "run once",
    "do not run",
    "run, and do not ask again for exactly this command in this session",
]


async def call(client, command, **more):
    return await client.call_tool("exec_command", {"command": command, **more})


async def test_a_command_that_is_agreed_to_runs_once(reach):
    reach.home.settings(SETTINGS)
    asked = []
    long = "echo ran; : " + "x" * 5000
    async with reach.client(elicitation_callback=person("run once", asked)) as client:
        result = await call(client, long)
        assert result.structured_content["stdout"] == "ran\n"
        await call(client, long)
    assert len(asked) == 2
    assert long in asked[0], "the person sees all of it"


async def test_a_denied_command_does_not_run(reach):
    reach.home.settings(SETTINGS)
    for decision in ["do not run", None]:
        asked = []
        witness = reach.home.path / "witness"
        async with reach.client(elicitation_callback=person(decision, asked)) as client:
            result = await call(client, f"touch {witness}")
            assert result.is_error and len(asked) == 1
            assert not witness.exists()


async def test_a_client_that_cannot_ask_is_refused_with_the_way_out(reach):
    reach.home.settings(SETTINGS)
    witness = reach.home.path / "witness"
    async with reach.client() as client:
        result = await call(client, f"touch {witness}")
        assert result.is_error and "security.approval" in result.content[0].text
        assert not witness.exists()
        result = await call(client, "id -u", sandbox=True)
        assert not result.is_error, "a sandbox needs no agreement"


async def test_always_is_for_exactly_this_command(reach):
    reach.home.settings(SETTINGS)
    asked = []
    async with reach.client(elicitation_callback=person("do not ask again", asked)) as client:
        if (reach.transport, reach.era) == ("http", "auto"):
            # Nothing ties one request to the next, so the choice is not offered.
            result = await call(client, "echo a")
            assert result.is_error and len(asked) == 1
            return
        await call(client, "echo a")
        await call(client, "echo a")
        assert len(asked) == 1
        await call(client, "echo b")
        assert len(asked) == 2


async def test_an_agreement_is_good_for_one_call_of_what_was_shown(home):
    import httpx2

    from conftest import MODERN

    home.settings(SETTINGS)
    witness = home.path / "witness"

    def post(address, command, **more):
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
        }
        params = {"name": "exec_command", "arguments": {"command": command}, "_meta": meta, **more}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": "exec_command",
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = httpx2.post(address + "/mcp", json=body, headers=headers, timeout=30)
        return answer.json()

    with home.serve() as (address, _):
        asked = post(address, f"echo x >> {witness}")["result"]
        assert asked["resultType"] == "input_required"
        answer = {"action": "accept", "content": {"decision": "run once"}}
        agreed = {
            "requestState": asked["requestState"],
            "inputResponses": {next(iter(asked["inputRequests"])): answer},
        }
        assert "error" in post(address, f"echo y >> {witness}", **agreed), "another command"
        assert not witness.exists()
        result = post(address, f"echo x >> {witness}", **agreed)["result"]
        assert not result["isError"], result
        assert "error" in post(address, f"echo x >> {witness}", **agreed), "a second time"
        assert witness.read_text() == "x\n"
        state = post(address, f"echo x >> {witness}")["result"]["requestState"]
        forged = {**agreed, "requestState": state[:-4] + "AAAA"}
        assert "error" in post(address, f"echo x >> {witness}", **forged)
        assert witness.read_text() == "x\n"
