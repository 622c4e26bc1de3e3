"""One command, from the call to the result."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import until

import openbrain
from openbrain import Exec, Sandbox


def test_runs_directly_by_default() -> None:
    result = openbrain.exec("echo hello; echo oops >&2")
    assert (result.stdout, result.stderr) == ("hello\n", "oops\n")
    assert (result.status, result.exit_code, result.success) == ("exited", 0, True)
    assert (result.backend, result.isolation.level) == ("direct", "none")


def test_runs_in_a_sandbox() -> None:
    result = openbrain.exec("pwd; ls /; id -u", sandbox=True, network=False)
    assert result.stdout.startswith("/workspace\n")
    assert (result.backend, result.isolation.level) == ("embedded", "namespaces")
    assert result.isolation.network == "none"


def test_the_builder_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    exec = Exec("cat file").sandbox().timeout(60).mount(tmp_path).network(False)
    assert exec.run().stdout == "content"
    keywords = openbrain.exec(
        "cat file", sandbox=True, timeout=60, mounts=[tmp_path], network=False
    )
    assert keywords.stdout == "content"


def test_a_list_needs_no_shell() -> None:
    assert openbrain.exec(["echo", "$HOME", Path("/a b")]).stdout == "$HOME /a b\n"


def test_a_script_is_a_program_in_its_language() -> None:
    assert Exec.script("print(6 * 7)", "python").run().stdout == "42\n"
    assert Exec.script("#!/bin/sh\necho $0 shell").run().stdout.endswith("shell\n")


@pytest.mark.parametrize("timeout", [0.2, timedelta(milliseconds=200)])
def test_a_timeout_is_a_value(timeout: float | timedelta) -> None:
    start = time.monotonic()
    result = openbrain.exec("echo early; sleep 60", timeout=timeout)
    assert time.monotonic() - start < 1.5
    assert (result.status, result.timed_out, result.exit_code) == ("timed_out", True, None)
    assert result.stdout == "early\n"
    assert result.returncode == -9


def test_no_timeout_is_that_of_the_settings() -> None:
    assert openbrain.exec("true", timeout=None).success
    assert Exec("true").timeout(5).timeout(None).run().success


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e12, timedelta(0)])
def test_a_timeout_that_cannot_be_meant_is_refused(timeout: float | timedelta) -> None:
    with pytest.raises(ValueError, match="not a") as caught:
        openbrain.exec("true", timeout=timeout)
    assert isinstance(caught.value, openbrain.errors.InvalidRequestError)


def test_mounts_have_modes(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    for mode, writes in (("ro", False), ("overlay", True), ("rw", True)):
        exec = Exec("touch /data/new && ls /data").sandbox().network(False)
        result = exec.mount(tmp_path, "/data", mode).run()  # type: ignore[arg-type]
        assert result.success is writes, mode
        assert (tmp_path / "new").exists() is (mode == "rw")


def test_every_form_of_a_mount_says_the_same(tmp_path: Path) -> None:
    mounts = [openbrain.Mount(tmp_path, "/data"), f"{tmp_path}:/data:rw"]
    (tmp_path / "file").write_text("content")
    for mount in mounts:
        result = openbrain.exec("cat /data/file", sandbox=True, network=False, mounts=[mount])
        assert result.stdout == "content"


def test_a_path_object_is_never_parsed(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.mkdir()
    (odd / "file").write_text("content")
    result = openbrain.exec("cat file", sandbox=True, network=False, mounts=odd)
    assert result.stdout == "content"


def test_variables_are_set_and_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "outer")
    result = openbrain.exec("echo $OUTER $INNER", env={"INNER": "inner"})
    assert result.stdout == "outer inner\n"
    sandboxed = openbrain.exec("echo $OUTER $INNER", env={"INNER": "i"}, sandbox=True)
    assert sandboxed.stdout == "i\n"


def test_a_variable_is_a_text_and_never_shown() -> None:
    with pytest.raises(TypeError, match="'PIN'") as caught:
        openbrain.exec("true", env={"PIN": 123456})  # type: ignore[dict-item]
    assert "123456" not in str(caught.value)
    exec = Exec("true").env("TOKEN", "hunter2").stdin("hunter2")
    assert "hunter2" not in repr(exec)
    assert "TOKEN" in repr(exec)


def test_standard_input_has_every_source(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("from a file")
    assert openbrain.exec("cat", stdin="text").stdout == "text"
    assert openbrain.exec("cat", stdin=b"\xff\0").stdout_bytes == b"\xff\0"
    assert openbrain.exec("cat", stdin=file).stdout == "from a file"
    assert openbrain.exec("cat").stdout == ""
    big = os.urandom(3 << 20)
    assert openbrain.exec("cat", stdin=big).stdout_bytes == big


def test_the_working_directory_is_the_callers(tmp_path: Path) -> None:
    assert openbrain.exec("pwd").stdout == f"{tmp_path}\n"
    assert openbrain.exec("pwd", workdir="/usr").stdout == "/usr\n"


def test_limits_and_terminals() -> None:
    result = openbrain.exec("seq 100000", limits={"output": 1000})
    assert result.truncated
    assert result.stdout_truncated
    assert len(result.stdout_bytes) < 2000
    assert result.stdout_total == 588895
    sized = openbrain.exec("stty size", tty=(40, 132))
    assert sized.stdout == "40 132\r\n"
    assert Exec("ulimit -n").limits(open_files=64).limits(output="1k").run().stdout == "64\n"


def test_an_exec_is_a_value() -> None:
    base = Exec("echo $A$B").env("A", "a")
    assert base.env("B", "b").run().stdout == "ab\n"
    assert base.run().stdout == "a\n"
    assert openbrain.exec(base, env={"B": "c"}).stdout == "ac\n"
    assert base.to_dict()["env"] == {"A": "a"}


def test_keywords_add_to_what_an_exec_has(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    base = Exec("cat /one/file /two/file two/file; ulimit -n").sandbox().network(False)
    base = base.mount(tmp_path / "one", "/one").limits(open_files=64).workdir(tmp_path).timeout(9)
    result = openbrain.exec(
        base,
        mounts=f"{tmp_path}/two:/two:ro",
        expose=tmp_path / "two",
        limits={"output": "1k"},
        timeout=60,
    )
    assert result.stdout == "onetwotwo64\n"
    with Sandbox(timeout=60, network=False) as sandbox:
        command = Exec("echo $A$B; ulimit -n").env("A", "a").limits(open_files=64)
        result = sandbox.exec(command, env={"B": "b"}, limits={"output": "1k"})
        assert result.stdout == "ab\n64\n"
        started = sandbox.start(command, env={"A": "c"}).wait()
        assert started.stdout == "c\n64\n"


def test_settings_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("security: {mode: sandbox, allow_direct: false}\n")
    monkeypatch.setenv("OPENBRAIN_CONFIG", str(settings))
    assert openbrain.exec("true").backend == "embedded"
    with pytest.raises(PermissionError) as caught:
        openbrain.exec("true", sandbox=False)
    assert isinstance(caught.value, openbrain.errors.PolicyDeniedError)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, None)


def test_asyncio_runs_many_at_once() -> None:
    async def main() -> list[openbrain.Output]:
        return await asyncio.gather(
            *(openbrain.exec_async(f"echo {i}", sandbox=i % 2 == 0) for i in range(20))
        )

    results = asyncio.run(main())
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(20)]


def test_threads_run_many_at_once() -> None:
    found: list[str] = []

    def work(i: int) -> None:
        found.append(openbrain.exec(f"echo {i}").stdout)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{i}\n" for i in range(8)]


def test_other_threads_run_while_one_waits(tmp_path: Path) -> None:
    """The command ends only because another thread could run meanwhile."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    opener = threading.Thread(target=gate.write_text, args=("go",))
    opener.start()
    assert openbrain.exec(["cat", gate], timeout=20).stdout == "go"
    opener.join()


def test_no_zombies_and_no_descriptors_are_left() -> None:
    openbrain.exec("true", sandbox=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        openbrain.exec("true")
        openbrain.exec("true", sandbox=True)
        asyncio.run(openbrain.exec_async("true"))
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert until(lambda: not _zombies(children))


def _zombies(children: list[str]) -> list[str]:
    found: list[str] = []
    for child in children:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state == "Z":
            found.append(child)
    return found


def test_it_is_beside_subprocess() -> None:
    """Waiting for a child of another kind is nobody else's business."""
    other = subprocess.Popen(["sleep", "0.2"])
    assert openbrain.exec("true").success
    assert other.wait() == 0
