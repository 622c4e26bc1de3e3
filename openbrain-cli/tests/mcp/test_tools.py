"""The tools, as the official Python client meets them over every transport in every era.

The client checks each structured result against the output schema of its tool.
"""

import json
import subprocess

import anyio
import pytest

from conftest import OPENBRAIN, Reach, appears, gone

pytestmark = pytest.mark.anyio


def text(result) -> str:
    return result.content[0].text


async def test_the_documented_call_works_as_it_is_written(reach):
    async with reach.client() as client:
        call = '{"command": "pip install requests", "sandbox": true, "timeout": 300}'
        result = await client.call_tool("exec_command", json.loads(call))
        # Whether pip is there, and what it reaches, is up to the machine.
        assert not result.is_error, text(result)
        assert result.structured_content["status"] == "exited"
        assert result.structured_content["backend"] == "embedded"


async def test_text_and_structure_each_stand_alone(reach):
    async with reach.client() as client:
        arguments = {"command": "echo out; echo err >&2; exit 3"}
        result = await client.call_tool("exec_command", arguments)
        assert not result.is_error
        for part in ["out", "err", "3"]:
            assert part in text(result)
        structured = result.structured_content
        assert (structured["exit_code"], structured["stdout"]) == (3, "out\n")
        assert structured["stderr"] == "err\n"


async def test_tools_tell_the_truth_about_themselves(reach):
    async with reach.client() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        names = ["exec_command", "exec_output", "exec_input", "exec_kill"]
        names += ["create_sandbox", "end_sandbox", "read_file", "write_file", "list_files"]
        assert list(tools) == names
        hints = tools["exec_command"].annotations
        assert (hints.read_only_hint, hints.destructive_hint) == (False, True)
        for name in ["exec_output", "read_file", "list_files"]:
            assert tools[name].annotations.read_only_hint
        assert tools["end_sandbox"].annotations.destructive_hint
        for name in ["create_sandbox", "write_file"]:
            assert not tools[name].annotations.destructive_hint
        assert all(tool.output_schema for tool in tools.values())
        assert "sandbox" in client.instructions.lower()


async def test_hints_are_milder_where_nothing_can_be_harmed(reach):
    reach.home.settings(
        "security:\n  mode: sandbox\n  allow_direct: false\n"
        "  sandbox: {network: {block_egress: true}}\n"
    )
    async with reach.client() as client:
        tools = (await client.list_tools()).tools
        hints = tools[0].annotations
        assert (hints.destructive_hint, hints.open_world_hint) == (False, False)
        result = await client.call_tool("exec_command", {"command": "id -u"})
        assert result.structured_content["backend"] == "embedded"
        result = await client.call_tool("exec_command", {"command": "true", "sandbox": False})
        assert result.is_error
        assert "security.allow_direct" in text(result)
    log = subprocess.run(
        [OPENBRAIN, "audit", "--json", "--surface", "mcp"],
        env=reach.home.env,
        cwd=reach.home.path,
        capture_output=True,
        check=True,
    )
    refused = [json.loads(line) for line in log.stdout.splitlines() if b'"refused"' in line]
    assert [record["error"]["code"] for record in refused] == ["policy_denied"]


async def test_what_fails_inside_is_told_to_the_log_alone(reach):
    reach.home.settings("audit:\n  file: /proc/none/audit.jsonl\n")
    async with reach.client() as client:
        result = await client.call_tool("exec_command", {"command": "true"})
        assert result.is_error
        assert "the log of the server says more" in text(result)
        assert "/proc/none" not in text(result)


async def test_what_cannot_be_run_is_an_error_that_helps(reach):
    async with reach.client() as client:
        for arguments, hint in [
            ({"command": "true", "timeot": 3}, "timeout"),
            ({"command": "true", "sandbox": True, "mounts": ["/etc"]}, "server.allowed_mounts"),
            ({"command": "true", "timeout": 1e6}, "server.max_timeout_seconds"),
            ({"command": ["no-such-program-here"]}, "no-such-program-here"),
            ({}, "command"),
        ]:
            result = await client.call_tool("exec_command", arguments)
            assert result.is_error, arguments
            assert hint in text(result), text(result)


async def test_much_output_is_small_and_the_rest_can_be_read(reach):
    async with reach.client() as client:
        arguments = {"command": "seq 200000"}
        result = await client.call_tool("exec_command", arguments)
        assert len(text(result)) < 32_000
        assert len(json.dumps(result.structured_content)) < 64_000
        assert text(result).count("exec_output") >= 1
        assert "\n1\n2\n3\n" in text(result) and "\n199999\n200000" in text(result)
        exec_id = result.structured_content["exec_id"]
        arguments = {"exec_id": exec_id, "stream": "stdout", "offset": 600_000, "max_bytes": 14}
        page = await client.call_tool("exec_output", arguments)
        whole = "".join(f"{n}\n" for n in range(1, 200_001))
        assert whole[600_000:600_014] in text(page)


async def test_a_timeout_is_a_result_with_the_output_so_far(reach):
    async with reach.client() as client:
        arguments = {"command": "echo begun; sleep 1000", "timeout": 0.3}
        result = await client.call_tool("exec_command", arguments)
        assert not result.is_error
        assert result.structured_content["status"] == "timed_out"
        assert result.structured_content["stdout"] == "begun\n"
        assert "timed out" in text(result) and "begun" in text(result)


async def test_a_large_command_arrives_whole(reach):
    async with reach.client() as client:
        command = f": {'x' * 200_000}\necho done"
        result = await client.call_tool("exec_command", {"command": command})
        assert result.structured_content["stdout"] == "done\n"


async def test_a_long_command_is_left_running_and_can_be_ended(reach):
    async with reach.client() as client:
        arguments = {"command": "echo begun; sleep 1000", "yield_seconds": 0.2}
        result = await client.call_tool("exec_command", arguments)
        assert not result.is_error
        assert result.structured_content["status"] == "running"
        assert result.structured_content["stdout"] == "begun\n"
        exec_id = result.structured_content["exec_id"]
        assert exec_id in text(result)
        result = await client.call_tool("exec_kill", {"exec_id": exec_id})
        assert result.structured_content["status"] == "cancelled"
        result = await client.call_tool("exec_output", {"exec_id": "exec_0"})
        assert result.is_error


async def test_a_command_reads_what_is_sent_to_it(reach):
    async with reach.client() as client:
        arguments = {"command": "cat", "stdin": {"pipe": True}, "background": True}
        result = await client.call_tool("exec_command", arguments)
        exec_id = result.structured_content["exec_id"]
        await client.call_tool("exec_input", {"exec_id": exec_id, "data": "héllo\n", "eof": True})
        result = await client.call_tool("exec_output", {"exec_id": exec_id, "wait_seconds": 10})
        assert result.structured_content["stdout"] == "héllo\n"
        assert result.structured_content["exit_code"] == 0


async def test_a_cancelled_call_kills_its_command(reach):
    started = reach.home.path / "pid"
    command = f"setsid sleep 1000 & echo $! > {started}; wait"
    async with reach.client() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "exec_command", {"command": command})
            pid = int(await appears(started))
            tasks.cancel_scope.cancel()
        await gone(pid)
        result = await client.call_tool("exec_command", {"command": "echo still here"})
        assert result.structured_content["stdout"] == "still here\n"


async def test_progress_is_told_to_who_asks(reach):
    told = []

    async def progress(*values):
        told.append(values)

    async with reach.client() as client:
        arguments = {"command": "echo a; sleep 3; echo b"}
        await client.call_tool("exec_command", arguments, progress_callback=progress)
    assert told
    assert all(one[0] <= other[0] for one, other in zip(told, told[1:], strict=False))


async def test_what_a_command_has_changed_is_told_in_both_forms(home):
    work = home.path / "work"
    work.mkdir()
    (work / "old").write_text("one\n")
    home.settings(f"server:\n  allowed_mounts: [{work}]\n")
    async with Reach(home, "stdio", "auto").client() as client:
        answer = await client.call_tool(
            "exec_command",
            {
                "command": "echo two > old; echo new > new",
                "sandbox": True,
                "mounts": [f"{work}:overlay"],
                "changes": True,
            },
        )
    changes = answer.structured_content["changes"]
    assert changes["entries"] == ["A /workspace/new", "M /workspace/old"]
    assert (changes["added"], changes["modified"], changes["deleted"]) == (1, 1, 0)
    assert "-one\n+two\n" in changes["diff"]
    text = answer.content[0].text
    assert "[changed: 1 added, 1 modified, 0 deleted]" in text
    assert "-one\n+two" in text
    assert (work / "old").read_text() == "one\n"
    assert not (work / "new").exists()
