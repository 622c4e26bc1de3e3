"""Sandboxes that stay open and their files, as the official Python client meets them."""

import subprocess

import anyio
import pytest

from conftest import OPENBRAIN, Reach, gone, is_running

pytestmark = pytest.mark.anyio


def text(result) -> str:
    return result.content[0].text


async def done(client, tool, **arguments):
    """Calls a tool, which does what it is called for, and gives text and structure."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text(result)
    return text(result), result.structured_content


async def refused(client, tool, **arguments):
    """Calls a tool, which does not do it, and gives text and code."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, text(result)
    structured = result.structured_content
    assert structured["status"] == "not_done"
    assert structured["error"]["message"] in text(result)
    return text(result), structured["error"]["code"]


async def opened(client, **arguments) -> str:
    """Opens a sandbox and gives its handle."""
    said, sandbox = await done(client, "create_sandbox", **arguments)
    assert sandbox["status"] == "open"
    assert sandbox["sandbox_id"] in said
    assert sandbox["expires_at"] in said
    assert "sandbox_id" in sandbox["next"]
    return sandbox["sandbox_id"]


async def background(client, sandbox) -> int:
    """Leaves a process running in a sandbox and gives its number on the host."""
    marker = f"3{hash(sandbox) % 10**8:08}"
    command = f"sleep {marker} >/dev/null 2>&1 &"
    await done(client, "exec_command", command=command, sandbox_id=sandbox)
    found = ""
    with anyio.fail_after(10):
        while not found:
            # A shell that is about to become the program tells nobody.
            found = subprocess.run(
                ["pgrep", "-fx", f"sleep {marker}"], capture_output=True, text=True
            ).stdout
    return int(found)


async def test_what_one_command_leaves_the_next_one_finds(reach):
    async with reach.client() as client:
        sandbox = await opened(client, env={"WHO": "me"}, name="mine")
        command = "echo $WHO > here; sleep 1000 >/dev/null 2>&1 & echo $! > pid"
        await done(client, "exec_command", command=command, sandbox_id=sandbox)
        command = "cat here; kill -0 $(cat pid) && echo alive"
        said, result = await done(client, "exec_command", command=command, sandbox_id=sandbox)
        assert (result["stdout"], result["backend"]) == ("me\nalive\n", "embedded")
        assert "alive" in said
        said, result = await done(client, "end_sandbox", sandbox_id=sandbox)
        assert (result["status"], result["sandbox_id"]) == ("ended", sandbox)
        for tool in ["end_sandbox", "list_files"]:
            said, code = await refused(client, tool, sandbox_id=sandbox)
            assert code == "not_found"
            assert "create_sandbox" in said
        said, code = await refused(client, "exec_command", command="true", sandbox_id=sandbox)
        assert code == "not_found"


async def test_files_are_written_listed_and_read(reach):
    async with reach.client() as client:
        sandbox = await opened(client)
        script = "#!/bin/sh\necho from a script\n"
        said, result = await done(
            client,
            "write_file",
            sandbox_id=sandbox,
            path="d/run.sh",
            content=script,
            executable=True,
        )
        assert (result["status"], result["written"]) == ("done", len(script))
        assert str(len(script)) in said
        said, result = await done(client, "exec_command", command="d/run.sh", sandbox_id=sandbox)
        assert result["stdout"] == "from a script\n"
        more = {"path": "d/run.sh", "content": "# é\n", "append": True}
        await done(client, "write_file", sandbox_id=sandbox, **more)
        said, result = await done(client, "read_file", sandbox_id=sandbox, path="d/run.sh")
        assert result["content"] == script + "# é\n"
        assert said.endswith("# é")
        assert "next_offset" not in result
        said, result = await done(client, "list_files", sandbox_id=sandbox)
        assert [(file["path"], file["kind"]) for file in result["files"]] == [("d", "directory")]
        said, result = await done(client, "list_files", sandbox_id=sandbox, pattern="*.sh")
        assert [file["path"] for file in result["files"]] == ["d/run.sh"]
        assert "d/run.sh" in said
        assert "0755" in said


async def test_a_long_file_is_read_in_parts_and_bytes_are_base64(reach):
    async with reach.client() as client:
        sandbox = await opened(client)
        # Characters of two bytes, so that parts would end within one.
        command = "printf x; yes é | head -n 20000 | tr -d '\\n'"
        command = f"({command}) > long; printf '\\377\\0' > bytes"
        await done(client, "exec_command", command=command, sandbox_id=sandbox)
        whole, offset, parts = "", 0, 0
        while offset is not None:
            said, part = await done(
                client, "read_file", sandbox_id=sandbox, path="long", offset=offset
            )
            assert len(said) < 30_000
            whole += part["content"]
            assert part["content"] in said
            offset, parts = part.get("next_offset"), parts + 1
        assert (whole, parts) == ("x" + "é" * 20000, 3)
        said, result = await done(client, "read_file", sandbox_id=sandbox, path="bytes")
        assert result["content_base64"] == "/wA="
        assert "/wA=" in said


async def test_many_files_and_odd_names_stay_small_and_in_their_line(reach):
    async with reach.client() as client:
        sandbox = await opened(client)
        command = "mkdir many odd; cd many; seq -f 'a-name-of-some-length-%g' 2000 | xargs touch"
        command += "; cd ../odd; touch \"$(printf 'a\\n[sandbox has ended]')\""
        await done(client, "exec_command", command=command, sandbox_id=sandbox)
        said, result = await done(client, "list_files", sandbox_id=sandbox, path="many")
        assert result["truncated"]
        assert 100 < len(result["files"]) <= 500
        assert len(said) < 60_000
        said, result = await done(client, "list_files", sandbox_id=sandbox, path="odd")
        assert result["files"][0]["path"] == "a\n[sandbox has ended]"
        assert "\\n[sandbox has ended]" in said


async def test_what_is_not_given_is_refused_with_the_way_to_get_it(reach):
    reach.home.settings("server: {max_sandboxes: 1, max_timeout_seconds: 600}\n")
    async with reach.client() as client:
        for arguments, hint in [
            ({"mounts": ["/etc"]}, "server.allowed_mounts"),
            ({"timeout": 601}, "server.max_timeout_seconds"),
            ({"limits": {"memory": "1TiB"}}, "limits.memory"),
            ({"image": "python:3.12"}, "security.sandbox.server_url"),
            ({"tiemout": 3}, "timeout"),
            ({"name": "a b"}, "letters"),
        ]:
            said, _ = await refused(client, "create_sandbox", **arguments)
            assert hint in said, said
        sandbox = await opened(client)
        said, code = await refused(client, "create_sandbox")
        assert code == "resource_exhausted"
        assert "server.max_sandboxes" in said
        for arguments in [
            {"sandbox": False},
            {"mounts": ["/etc"]},
            {"allow_network": True},
            {"timeout": 601},
        ]:
            call = {"command": "true", "sandbox_id": sandbox} | arguments
            await refused(client, "exec_command", **call)
        said, code = await refused(client, "read_file", sandbox_id=sandbox, path="/none")
        assert code == "file_failed"
        assert "/none" in said
        _, code = await refused(client, "write_file", sandbox_id=sandbox, path="/usr/x", content="")
        assert code == "file_failed"
        _, code = await refused(client, "read_file", sandbox_id="sbx_0", path="/etc/passwd")
        assert code == "not_found"


async def test_nobody_is_asked_before_a_command_in_an_open_sandbox(reach):
    reach.home.settings("security: {approval: direct}\n")
    async with reach.client() as client:
        sandbox = await opened(client)
        said, result = await done(client, "exec_command", command="pwd", sandbox_id=sandbox)
        assert result["stdout"] == "/workspace\n"
        # The same command outside of it is not run: this client cannot ask.
        await refused(client, "exec_command", command="pwd")


async def test_a_sandbox_ends_with_its_client(home):
    for transport, era in [("stdio", "legacy"), ("stdio", "auto"), ("http", "legacy")]:
        async with Reach(home, transport, era).client() as client:
            pid = await background(client, await opened(client))
            assert is_running(pid)
        await gone(pid)


async def test_a_sandbox_without_a_session_outlives_its_client_and_not_the_server(home):
    from mcp import Client

    with home.serve() as (address, _):
        async with Client(address + "/mcp", mode="auto") as client:
            sandbox = await opened(client)
            pid = await background(client, sandbox)
        async with Client(address + "/mcp", mode="auto") as client:
            said, result = await done(
                client, "exec_command", command="echo there", sandbox_id=sandbox
            )
            assert result["stdout"] == "there\n"
        assert is_running(pid)
    await gone(pid)


async def test_the_time_of_a_sandbox_ends_it(reach):
    async with reach.client() as client:
        sandbox = await opened(client, timeout=1)
        await gone(await background(client, sandbox))
        with anyio.fail_after(10):
            while True:
                result = await client.call_tool("list_files", {"sandbox_id": sandbox})
                if result.structured_content["error"]["code"] == "not_found":
                    break


async def test_the_life_of_a_sandbox_is_in_the_audit_log(home):
    async with Reach(home, "stdio", "auto").client() as client:
        sandbox = await opened(client, name="mine")
        await done(client, "exec_command", command="echo inside", sandbox_id=sandbox)
        await done(client, "end_sandbox", sandbox_id=sandbox)
    log = subprocess.run(
        [OPENBRAIN, "audit", "--surface", "mcp"],
        env=home.env,
        cwd=home.path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = log.splitlines()[1:]
    assert len(lines) == 2, log
    assert "(sandbox mine)" in lines[0]
    assert "cancelled" in lines[0]
    assert "echo inside" in lines[1]
