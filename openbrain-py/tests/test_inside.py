"""Shells, ports, watches and archives of sandboxes that stay open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from conftest import alive, sleeper, until

import openbrain
from openbrain import FileChange, Sandbox, errors


def test_a_shell_goes_on_where_it_left_off() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        shell = sandbox.shell()
        shell.run("mkdir d && cd d && export A=1", env={"B": "2"})
        assert shell.run("pwd; echo $A$B", check=True).stdout == "/workspace/d\n12\n"
        assert shell.run(["printenv", "A"], timeout=timedelta(seconds=20)).stdout == "1\n"
        with shell.command("cd /tmp; cat").stdin(openbrain.PIPE).spawn() as process:
            process.write("in")
            assert process.wait().stdout == "in"
        assert asyncio.run(shell.run_async("pwd")).stdout == "/tmp\n"
        assert sandbox.exec("pwd").stdout == "/workspace\n"
        assert sandbox.shell("bash").run("echo $BASH_VERSION").stdout != "\n"
        with pytest.raises(errors.InvalidRequestError, match="language"):
            shell.run(openbrain.Exec.script("print()", "python"))
    with pytest.raises(errors.SandboxLostError):
        shell.run("true")


def test_cancelling_a_command_of_a_shell_leaves_the_shell(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            shell = sandbox.shell()
            await shell.run_async("export A=1")
            task = asyncio.create_task(shell.run_async(sleeper(mark)))
            while len(alive(mark)) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert alive(mark) == []
            assert (await shell.run_async("echo $A")).stdout == "1\n"

    asyncio.run(main())


def test_a_port_is_forwarded_until_it_is_closed() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        sandbox.start("echo hello > index.html; python3 -m http.server 8000")
        sandbox.wait_for_port(8000, 20)
        with sandbox.forward(8000) as forward:
            host, port = forward.address
            assert (host, port) == ("127.0.0.1", forward.port)
            assert repr(forward) == f"<Forward 127.0.0.1:{port}>"
            assert urlopen(f"http://127.0.0.1:{port}/").read() == b"hello\n"
        assert until(lambda: not _listens(port))
        chosen = asyncio.run(sandbox.forward_async(8000, ("127.0.0.1", port)))
        assert chosen.port == port
        del chosen
        assert until(lambda: not _listens(port))
        for wrong in (("192.0.2.1", 0), ("localhost", 0), ("127.0.0.1", 70000)):
            with pytest.raises(errors.InvalidRequestError):
                sandbox.forward(8000, wrong)


def _listens(port: int) -> bool:
    with socket.socket() as other:
        return other.connect_ex(("127.0.0.1", port)) == 0


def test_changes_of_files_are_watched() -> None:
    with Sandbox(timeout=60, network=False) as sandbox, sandbox.files.watch() as watch:
        sandbox.exec("mkdir d")
        assert next(watch) == FileChange(path="d", kind="created", is_directory=True)
        sandbox.files.write("file", "content")
        kinds = [next(watch).kind]
        while kinds[-1] != "modified":
            kinds.append(next(watch).kind)
        assert kinds[0] == "created"
        waiter = threading.Thread(target=lambda: list(watch))
        waiter.start()
        watch.close()
        waiter.join(20)
        assert not waiter.is_alive()
        assert watch.next_change() is None
        with pytest.raises(FileNotFoundError):
            sandbox.files.watch("missing")


def test_cancelling_a_watch_loses_nothing() -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            async with await sandbox.files.watch_async("/workspace") as watch:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(watch.next_change_async(), 0.05)
                await sandbox.files.mkdir_async("d")
                async for change in watch:
                    assert (change.path, change.kind) == ("d", "created")
                    break
            assert await watch.next_change_async() is None

    asyncio.run(main())


def test_archives_go_in_and_out(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("d/file")
        entry.size = 7
        archive.addfile(entry, io.BytesIO(b"content"))
    file = tmp_path / "in.tar"
    file.write_bytes(packed.getvalue())
    with Sandbox(timeout=60, network=False) as sandbox:
        files = sandbox.files
        assert files.upload_tar("bytes", packed.getvalue()).bytes == 7
        assert asyncio.run(files.upload_tar_async("path", file)).bytes == 7
        assert files.read("bytes/d/file") == files.read("path/d/file") == b"content"
        out = tmp_path / "out.tar"
        assert files.download_tar("path", out) == out.stat().st_size
        assert asyncio.run(files.download_tar_async("bytes", str(out))) > 0
        with tarfile.open(out) as archive:
            assert sorted(archive.getnames()) == ["d", "d/file"]
        with pytest.raises(FileNotFoundError) as missing:
            files.upload_tar("here", tmp_path / "missing.tar")
        assert missing.value.filename == str(tmp_path / "missing.tar")
        with pytest.raises(errors.FileFailedError):
            files.upload_tar("here", b"no archive" * 100)
        with pytest.raises(FileNotFoundError):
            files.download_tar("missing", out)


def test_parts_of_files_are_read_and_found() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        files = sandbox.files
        files.write("file", bytes(range(256)) * 4096)
        assert files.read("file", offset=256, limit=3) == b"\x00\x01\x02"
        assert files.read("file", offset=(1 << 20) - 2) == b"\xfe\xff"
        assert files.read("file", offset=1 << 40) == b""
        assert len(files.read("file", limit=600_000)) == 600_000
        for name in ("a.py", "b.py", "d/c.py"):
            files.write(name, "")
        found = files.find(pattern="*.py")
        assert [entry.path for entry in found.entries] == ["a.py", "b.py", "d/c.py"]
        assert not found.truncated
        assert asyncio.run(files.find_async("d")).entries[0].path == "c.py"
        assert files.find(limit=1).truncated


def test_any_name_can_be_used_again(tmp_path: Path) -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        files = sandbox.files
        sandbox.exec(r"mkdir d; cd d; printf x > $(printf 'a\377'); ln -s $(printf 'a\377') link")
        entry, link = files.list("d")
        assert os.fsencode(entry.path) == b"a\xff"
        assert link.target == entry.path
        assert files.read(f"d/{entry.path}") == b"x"
        assert files.stat(f"d/{entry.path}").path == f"d/{entry.path}"
        assert [found.path for found in files.search("d", "a*")] == [entry.path]
        files.download("d", tmp_path / "out")
        assert b"a\xff" in os.listdir(os.fsencode(tmp_path / "out"))
        with files.watch("d") as watch:
            files.remove(f"d/{entry.path}")
            assert next(watch).path == entry.path


def test_a_failure_of_a_file_says_which(tmp_path: Path) -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        with pytest.raises(FileNotFoundError) as missing:
            sandbox.files.read("no/file")
        assert (missing.value.errno, missing.value.filename) == (2, "no/file")
        with pytest.raises(OSError, match="Read-only") as refused:
            sandbox.files.write("/usr/no", "")
        assert refused.value.errno == 30
        with pytest.raises(FileNotFoundError) as local:
            sandbox.files.upload(tmp_path / "missing", "here")
        assert local.value.filename == str(tmp_path / "missing")


def test_numbers_that_cannot_be_meant_are_refused() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        background = sandbox.start("true")
        process = sandbox.command("true").spawn()
        for call in (
            lambda: sandbox.wait_for_port(70000, 1),
            lambda: sandbox.wait_for_port(-1, 1),
            lambda: sandbox.forward(1 << 70),
            lambda: sandbox.files.read("file", offset=-1),
            lambda: sandbox.files.find(limit=-1),
            lambda: background.logs(-1),
            lambda: background.next_logs(0, 1 << 64),
            lambda: process.resize(70000, 1),
            lambda: process.wait_for_output("x", float("nan")),
            lambda: openbrain.exec("true", sandbox=True, allowed_ports=[1 << 70]),
            lambda: sandbox.renew(-1),
        ):
            with pytest.raises(errors.InvalidRequestError):
                call()
        with pytest.raises(TypeError):
            sandbox.wait_for_port("80", 1)  # type: ignore[arg-type]
        process.close()


def test_a_sandbox_has_the_system_of_a_directory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for link in ("bin", "lib", "lib64"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text("ID=image\n")
    shutil.copy(os.path.realpath("/bin/sh"), root / "usr/bin/sh")
    for word in subprocess.check_output(["ldd", "/bin/sh"], text=True).split():
        if word.startswith("/"):
            target = root / word[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)
    with Sandbox(timeout=60, network=False, rootfs=root) as sandbox:
        result = sandbox.exec("read line < /etc/os-release; echo $line; ls")
        assert (result.stdout, result.exit_code) == ("ID=image\n", 127)


def test_a_sandbox_tells_its_time_and_its_end() -> None:
    before = datetime.now(UTC)
    with Sandbox(timeout=60, network=False) as sandbox:
        assert timedelta(seconds=50) < sandbox.expires_at - before < timedelta(seconds=90)
        sandbox.renew(600)
        assert sandbox.expires_at - before > timedelta(seconds=500)
        assert sandbox.command_timeout == 300.0
        ends: list[str] = []
        waiter = threading.Thread(target=lambda: ends.append(sandbox.wait_ended()))
        waiter.start()
        sandbox.kill()
        waiter.join(20)
        assert ends == ["killed"]
    short = Sandbox(timeout=0.3, network=False)
    short.open()
    assert asyncio.run(short.wait_ended_async()) == "expired"


def test_a_background_tells_how_it_stands() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        running = sandbox.start("echo ready; sleep 600")
        assert (running.has_ended, running.status, running.error) == (False, None, None)
        for script, status in (("exit 3", "exited"), ("kill -9 $$", "signaled")):
            ended = sandbox.start(script)
            ended.wait()
            assert (ended.has_ended, ended.status) == (True, status)
        late = sandbox.start("sleep 60", timeout=0.1)
        late.wait()
        assert late.status == "timed_out"
    with pytest.raises(errors.SandboxLostError):
        running.wait()
    assert (running.has_ended, running.status) == (True, None)
    assert running.error is not None


def test_limits_of_a_command_are_its_own() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        assert sandbox.exec("ulimit -n", limits={"open_files": 64}).stdout == "64\n"
        assert sandbox.exec("seq 10000", limits={"output": "1k"}).truncated
        background = sandbox.start("seq 10000", limits={"output": 100})
        assert background.wait().truncated
        with pytest.raises(ValueError, match="memory"):
            sandbox.exec("true", limits={"memory": "1g"})


def test_a_kept_sandbox_outlives_its_block(mark: str) -> None:
    with Sandbox(timeout=3, network=False) as sandbox:
        sandbox.exec(f"{sleeper(mark)} >/dev/null 2>&1 & true")
        sandbox.keep()
        with pytest.raises(errors.InvalidRequestError, match="keep"):
            sandbox.exec("true")
    assert until(lambda: len(alive(mark)) == 3, 2)
    assert until(lambda: not alive(mark))


def test_raising_may_come_back_to_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an exception runs Python, and with it whatever else asks something of the sandbox."""
    make = errors.make
    sandbox = Sandbox(timeout=1, network=False)
    sandbox.open()

    def again(*facts: Any) -> errors.OpenbrainError:
        sandbox.__exit__(None, None, None)
        return make(*facts)

    sandbox.keep()
    monkeypatch.setattr(errors, "make", again)
    with pytest.raises(errors.OpenbrainError, match="keep"):
        sandbox.exec("true")


def test_a_sandbox_that_cannot_be_kept_is_as_it_was(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            task = asyncio.create_task(sandbox.exec_async(f"sh -c 'read x; :' {mark}; sleep 600"))
            await asyncio.sleep(0)
            with pytest.raises(errors.InvalidRequestError, match="under way"):
                await sandbox.keep_async()
            assert (await sandbox.exec_async("echo usable")).stdout == "usable\n"
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_dropping_a_sandbox_needs_no_collection(mark: str) -> None:
    gc.disable()
    try:
        sandbox = Sandbox(timeout=60, network=False)
        sandbox.open()
        sandbox.files.write("file", "")
        sandbox.exec(f"{sleeper(mark)} >/dev/null 2>&1 & true")
        assert until(lambda: bool(alive(mark)))
        del sandbox
        assert until(lambda: not alive(mark))
    finally:
        gc.enable()
