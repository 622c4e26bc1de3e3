"""Sandboxes on a real OpenSandbox server: `.ci/opensandbox run .ci/python` tells of one."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import openbrain
from openbrain import Sandbox, Volume, errors

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

URL = os.environ.get("TEST_OPENSANDBOX_URL", "")
KEY = os.environ.get("TEST_OPENSANDBOX_KEY", "")
IMAGE = os.environ.get("TEST_OPENSANDBOX_IMAGE", "")

pytestmark = [
    pytest.mark.skipif(not URL, reason="no server: run it by `.ci/opensandbox run`"),
    pytest.mark.timeout(240),
]


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBRAIN_SERVER_URL", URL)
    monkeypatch.setenv("OPENBRAIN_API_KEY", KEY)
    monkeypatch.setenv("OPENBRAIN_IMAGE", IMAGE)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that the server may mount, and its sandboxes may write to."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_the_documented_lines(shared: Path) -> None:
    async def main() -> None:
        sandbox = await Sandbox.create(IMAGE, timeout=timedelta(minutes=5))
        assert (await sandbox.exec_async("echo hello")).stdout == "hello\n"
        await sandbox.kill_async()
        sandbox = await Sandbox.create(
            IMAGE,
            volumes=[Volume(container_path="/workspace", host_path=str(shared))],
            timeout=timedelta(minutes=10),
        )
        result = await sandbox.exec_async("echo kept > file; pwd")
        assert (result.backend, result.stdout) == ("opensandbox", "/workspace\n")
        assert result.isolation.level == "container"
        await sandbox.kill_async()
        with pytest.raises(errors.SandboxLostError):
            await sandbox.exec_async("true")

    asyncio.run(main())
    assert (shared / "file").read_text() == "kept\n"


def test_one_command_has_a_sandbox_of_its_own() -> None:
    result = openbrain.exec("echo out; echo err >&2; exit 3", sandbox=True, timeout=120)
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert result.sandbox_id


def test_cancelling_a_command_leaves_the_sandbox() -> None:
    async def main() -> None:
        async with Sandbox(timeout=300) as sandbox:
            task = asyncio.create_task(sandbox.exec_async("echo $$ > pid; exec sleep 600"))
            while not (await sandbox.exec_async("test -s pid")).success:
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while (await sandbox.exec_async("kill -0 $(cat pid)")).success:
                await asyncio.sleep(0.05)

    asyncio.run(main())


def test_sessions_have_files_and_backgrounds() -> None:
    with Sandbox(timeout=300) as sandbox:
        sandbox.files.write("file", "content")
        assert sandbox.files.read("file", offset=3) == b"tent"
        server = sandbox.start("echo ready; sleep 600")
        server.wait_for_log("ready", 60)
        assert sandbox.shell().run("cd /tmp").success
        server.cancel()
        assert server.wait().status == "cancelled"
        with pytest.raises(errors.SandboxUnavailableError):
            sandbox.changes()


def test_a_forked_child_has_sandboxes_of_its_own(
    python: Callable[..., subprocess.Popen[str]],
) -> None:
    child = python("""
import os, openbrain
def once():
    print(openbrain.exec("echo hello", sandbox=True, timeout=120).stdout, end="", flush=True)
once()
child = os.fork()
if child == 0:
    once()
    raise SystemExit
os.waitpid(child, 0)
""")
    assert child.communicate(timeout=200) == ("hello\nhello\n", "")
