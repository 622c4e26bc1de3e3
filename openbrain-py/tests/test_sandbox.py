"""Sandboxes that stay open."""

from __future__ import annotations

import asyncio
import gc
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import alive, sleeper, until

import openbrain
from openbrain import Exec, Sandbox, Volume, errors
from openbrain.waiting import wait_async

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path


def test_what_one_command_leaves_the_next_one_finds() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        sandbox.exec("echo one > file; sleep 600 & echo $! > pid")
        assert sandbox.exec("cat file; kill -0 $(cat pid)", check=True).stdout == "one\n"
        assert sandbox.backend == "embedded"
        assert sandbox.isolation.level == "namespaces"
        assert sandbox.exec("true").sandbox_id == sandbox.id


def test_the_documented_lines(tmp_path: Path) -> None:
    """The image is the server's: the embedded engine refuses one, and says so."""

    async def main() -> None:
        volumes = [Volume(container_path="/workspace", host_path=tmp_path)]
        sandbox = await Sandbox.create(volumes=volumes, timeout=timedelta(minutes=10))
        result = await sandbox.exec_async("echo hello > greeting; pwd")
        assert result.stdout == "/workspace\n"
        await sandbox.kill_async()
        with pytest.raises(errors.OpenbrainError, match="image"):
            await Sandbox.create(
                "opensandbox/code-interpreter:v1.0.1", timeout=timedelta(minutes=5)
            )

    asyncio.run(main())
    assert (tmp_path / "greeting").read_text() == "hello\n"


def test_a_volume_may_be_read_only(tmp_path: Path) -> None:
    volume = Volume(container_path="/data", host_path=tmp_path, read_only=True)
    with Sandbox(network=False, volumes=[volume], mounts=f"{tmp_path}:/other:overlay") as sandbox:
        assert not sandbox.exec("touch /data/file").success
        assert sandbox.exec("touch /other/file").success
    assert list(tmp_path.glob("file")) == []


def test_async_with_ends_it(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False, name="mine", labels={"a": "b"}) as sandbox:
            assert (sandbox.name, sandbox.labels) == ("mine", {"a": "b"})
            await sandbox.exec_async(f"{sleeper(mark)} >/dev/null 2>&1 & true")
            assert until(lambda: bool(alive(mark)))
        assert alive(mark) == []
        with pytest.raises(ConnectionError):
            await sandbox.exec_async("true")

    asyncio.run(main())


def test_every_keyword_reaches_a_command() -> None:
    with Sandbox(network=False, env={"OUTER": "o"}, workdir="/tmp") as sandbox:
        result = sandbox.exec("pwd; echo $OUTER$INNER; cat", env={"INNER": "i"}, stdin="text")
        assert result.stdout == "/tmp\noi\ntext"
        assert sandbox.exec("sleep 60", timeout=0.1).timed_out
        assert sandbox.exec(["pwd"], workdir="/usr").stdout == "/usr\n"
        assert sandbox.exec("echo $0", shell="bash").stdout == "bash\n"
        assert sandbox.exec("stty size", tty=(30, 90)).stdout == "30 90\r\n"
        with pytest.raises(errors.CommandFailedError):
            sandbox.exec("exit 3", check=True)
        with pytest.raises(ValueError, match="sandbox"):
            sandbox.exec(Exec("true").mount("/tmp"))


def test_commands_stream_and_are_spawned() -> None:
    with Sandbox(network=False) as sandbox:
        events = list(sandbox.command("echo one").env("A", "b").stream())
        assert events[0] == openbrain.Stdout(data=b"one\n", text="one\n")
        with sandbox.command("cat").stdin(openbrain.PIPE).spawn() as process:
            process.write("hello")
            assert process.wait().stdout == "hello"
        assert sandbox.exec("echo still here").success


def test_cancelling_a_command_leaves_the_sandbox(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            task = asyncio.create_task(sandbox.exec_async(sleeper(mark)))
            while len(alive(mark)) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert alive(mark) == []
            assert (await sandbox.exec_async("echo alive")).stdout == "alive\n"

    asyncio.run(main())


def test_a_command_in_the_background_goes_on(mark: str) -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        server = sandbox.start(f"echo one; echo two >&2; sh -c 'sleep 600; :' {mark}")
        server.wait_for_log("two", timedelta(seconds=20))
        assert until(lambda: bool(alive(mark)))
        assert server.status is None
        logs = server.logs()
        assert (logs.stdout.text, logs.stderr.data, logs.ended) == ("one\n", b"two\n", False)
        assert server.logs(stdout=logs.stdout.end).stdout == openbrain.LogPart(offset=4, data=b"")
        with pytest.raises(errors.WaitTimeoutError) as late:
            server.wait_for_log("three", 0.1)
        assert isinstance(late.value, TimeoutError)
        for wait in (lambda: server.wait(0.05), lambda: asyncio.run(server.wait_async(0.05))):
            with pytest.raises(TimeoutError, match="did not end in time"):
                wait()
        assert len(alive(mark)) == 1
        assert sandbox.exec("echo beside it").success
        server.cancel()
        result = server.wait()
        assert (result.status, result.stdout, result.exec_id) == (
            "cancelled",
            "one\n",
            server.exec_id,
        )
        assert alive(mark) == []
        assert repr(server) == f"<Background {server.exec_id} cancelled>"


def test_what_the_background_never_says_is_not_waited_for() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        done = sandbox.start(["sh", "-c", "echo only; cat; exit 3"], stdin="input")
        with pytest.raises(errors.WaitFailedError, match="before it ended") as caught:
            done.wait_for_log("other", 20)
        assert not isinstance(caught.value, TimeoutError)
        with pytest.raises(errors.CommandFailedError) as failed:
            done.wait(check=True)
        assert failed.value.result.stdout == "only\ninput"
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                done.wait_for_log("other", wrong)


def test_a_wait_without_a_time_has_no_end_of_its_own() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        command = sandbox.start("sleep 0.3; echo late; read x", stdin=b"")
        command.wait_for_log("late", None)
        asyncio.run(command.wait_for_log_async("late"))
        none: Any = None
        for call in (lambda: sandbox.renew(none), lambda: sandbox.wait_for_port(80, none)):
            with pytest.raises(TypeError, match="None"):
                call()


def test_a_server_in_the_background_is_waited_for() -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            with pytest.raises(errors.WaitTimeoutError, match="8000"):
                sandbox.wait_for_port(8000, 0.2)
            await sandbox.start_async("python3 -m http.server 8000 --bind 127.0.0.1")
            await sandbox.wait_for_port_async(8000, timedelta(seconds=20))
            program = "import socket; socket.create_connection(('127.0.0.1', 8000), 5)"
            assert (await sandbox.exec_async(["python3", "-c", program])).success
            with pytest.raises(ValueError, match="timeout"):
                sandbox.wait_for_port(8000, -1)

    asyncio.run(main())


def test_giving_up_a_wait_leaves_the_background_running(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            command = await sandbox.start_async(f"echo begun; sh -c 'sleep 600; :' {mark}")
            logs = await command.next_logs_async()
            assert until(lambda: bool(alive(mark)))
            assert logs.stdout.text == "begun\n"
            for call in (
                command.wait_async(),
                command.next_logs_async(logs.stdout.end),
                command.wait_for_log_async("never", 60),
            ):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, 0.05)
            assert len(alive(mark)) == 1
            command.signal(9)
            assert (await command.wait_async()).signal == 9

    asyncio.run(main())


def test_a_start_that_is_given_up_as_it_succeeds_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """As Ctrl-C and a cancellation do that come when the command runs and nobody has it yet."""

    def interrupt(pending: Any) -> None:
        assert until(pending.done)
        raise KeyboardInterrupt

    async def cancel(pending: Any) -> Any:
        assert until(pending.done)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return await wait_async(pending)

    async def main(sandbox: Sandbox) -> None:
        # The exception has what it went through, as long as somebody has the exception.
        with pytest.raises(asyncio.CancelledError) as caught:
            await sandbox.start_async(sleeper(mark))
        assert until(lambda: not alive(mark)), caught

    with Sandbox(timeout=60, network=False) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr("openbrain.sandbox.wait", interrupt)
            patch.setattr("openbrain.sandbox.wait_async", cancel)
            with pytest.raises(KeyboardInterrupt):
                sandbox.start(sleeper(mark))
            gc.collect()
            assert until(lambda: not alive(mark))
            asyncio.run(main(sandbox))
        assert sandbox.start("true").wait().success


def test_the_end_of_the_sandbox_ends_the_background(mark: str) -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        command = sandbox.start(["sh", "-c", sleeper(mark)])
        command.wait_for_log("ready", 20)
        assert until(lambda: len(alive(mark)) == 3)
    assert alive(mark) == []
    with pytest.raises(errors.SandboxLostError):
        command.wait()


def test_pausing_stops_and_resuming_goes_on() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        sandbox.pause()
        with pytest.raises(errors.InvalidRequestError, match="paused"):
            sandbox.exec("true")
        sandbox.resume()
        assert sandbox.exec("true").success
        sandbox.renew(timedelta(minutes=5))
        with pytest.raises(ValueError, match="timeout"):
            sandbox.renew(0)


def test_its_time_ends_it(mark: str) -> None:
    sandbox = Sandbox(timeout=60, network=False)
    sandbox.open()
    sandbox.exec(f"{sleeper(mark)} >/dev/null 2>&1 & true")
    assert until(lambda: bool(alive(mark)))
    sandbox.renew(0.2)
    assert until(lambda: not alive(mark))


def test_dropping_ends_it(mark: str) -> None:
    sandbox = Sandbox(timeout=60, network=False)
    sandbox.open()
    sandbox.exec(f"{sleeper(mark)} >/dev/null 2>&1 & true")
    assert until(lambda: bool(alive(mark)))
    del sandbox
    gc.collect()
    assert until(lambda: not alive(mark))


@pytest.mark.parametrize(("call", "left"), [("exec({})", 0), ("start({}).wait()", 3)])
def test_ctrl_c_leaves_the_sandbox(
    python: Callable[..., subprocess.Popen[str]], mark: str, call: str, left: int
) -> None:
    """A command that is waited for is killed, one in the background goes on."""
    child = python(
        f"""
import sys
from openbrain import Sandbox
with Sandbox(network=False) as sandbox:
    try:
        sandbox.{call.format("sys.argv[1]")}
    except KeyboardInterrupt:
        print(sandbox.exec("echo still here").stdout, end="", flush=True)
        sys.stdin.readline()
""",
        sleeper(mark),
    )
    assert child.stdout is not None
    assert until(lambda: len(alive(mark)) == 3)
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "still here\n"
    # What is killed is so by now; what goes on may be about to execute its programs.
    assert until(lambda: len(alive(mark)) == left, seconds=5 * left)
    assert child.communicate(timeout=20) == ("", "")


@pytest.mark.parametrize("opening", ["Sandbox(network=False)", "asyncio.run(Sandbox.create())"])
def test_the_interpreter_ends_with_an_open_sandbox(
    python: Callable[..., subprocess.Popen[str]], mark: str, opening: str
) -> None:
    child = python(
        f"""
import asyncio, sys
from openbrain import Sandbox
sandbox = {opening}
if sandbox._native is None:
    sandbox.open()
sandbox.exec(sys.argv[1])
background = sandbox.start(sys.argv[1] + "; sleep 600")
""",
        f"{sleeper(mark)} >/dev/null 2>&1 & true",
    )
    assert child.communicate(timeout=20) == ("", "")
    assert until(lambda: not alive(mark))


def test_a_forked_child_has_no_say_in_it(python: Callable[..., subprocess.Popen[str]]) -> None:
    child = python("""
import os
import openbrain
with openbrain.Sandbox(network=False) as sandbox:
    child = os.fork()
    if child == 0:
        try:
            sandbox.exec("true")
        except openbrain.errors.InvalidRequestError as error:
            print(error, flush=True)
        del sandbox
        with openbrain.Sandbox(network=False) as own:
            print(own.exec("echo own").stdout, end="", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(sandbox.exec("echo parent").stdout, end="")
""")
    message = "the sandbox belongs to the process that this one was forked from"
    assert child.communicate(timeout=20) == (f"{message}\nown\nparent\n", "")


def test_one_that_is_not_open_says_so() -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox, not open>"
    with pytest.raises(RuntimeError, match="not open"):
        sandbox.exec("true")
    with sandbox, pytest.raises(RuntimeError, match="open already"):
        sandbox.open()


def test_files(tmp_path: Path) -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        files = sandbox.files
        files.write("a/one", "text")
        files.append("a/one", b"\xff")
        assert files.read("a/one") == b"text\xff"
        entry = files.stat("a/one")
        assert (entry.kind, entry.size, entry.target) == ("file", 5, None)
        files.mkdir("a/b")
        files.rename("a/one", "a/b/two")
        assert [(entry.path, entry.kind) for entry in files.list("a")] == [("b", "directory")]
        assert [entry.path for entry in files.search("a", "t*")] == ["b/two"]
        (tmp_path / "here").mkdir()
        (tmp_path / "here/file").write_text("from here")
        assert files.upload(tmp_path / "here", "up").entries == 1
        assert files.download("up", tmp_path / "back").bytes == 9
        assert (tmp_path / "back/file").read_text() == "from here"
        files.remove("a/b/two")
        files.remove_all("a")
        with pytest.raises(FileNotFoundError) as missing:
            files.read("a/one")
        assert isinstance(missing.value, errors.FileFailedError)
        assert missing.value.code == "file_failed"
        with pytest.raises(IsADirectoryError):
            files.read("up")
        sandbox.exec("mkdir closed; chmod 0 closed", check=True)
        with pytest.raises(PermissionError):
            files.write("closed/file", "")
        with pytest.raises(OSError, match="Read-only"):
            files.write("/usr/no", "")


def test_every_verb_of_files_has_its_twin() -> None:
    kinds = (Sandbox, openbrain.Files, openbrain.FileWatch, openbrain.Shell, openbrain.Process)
    for kind in (*kinds, openbrain.Background, openbrain.Changes, openbrain.SavedChanges):
        verbs = {name for name in dir(kind) if not name.startswith("_")}
        twins = {name.removesuffix("_async") for name in verbs if name.endswith("_async")}
        assert twins <= verbs

    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            files = sandbox.files
            await files.write_async("one", "1")
            await files.append_async("one", "2")
            await files.mkdir_async("d")
            await files.rename_async("one", "d/two")
            assert await files.read_async("d/two") == b"12"
            assert (await files.stat_async("d/two")).size == 2
            assert [entry.path for entry in await files.list_async("d")] == ["two"]
            assert [entry.path for entry in await files.search_async("d", "*")] == ["two"]
            await files.remove_async("d/two")
            await files.remove_all_async("d")
            await sandbox.pause_async()
            await sandbox.resume_async()
            await sandbox.renew_async(60)

    asyncio.run(main())
