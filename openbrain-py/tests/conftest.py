"""What the tests share. They run against the installed package, never against the source tree."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but the defaults, whoever runs the tests and wherever."""
    for name in [name for name in os.environ if name.startswith("OPENBRAIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("OPEN_SANDBOX_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """An argument that no other process has, to find the processes of a test by."""
    name = f"openbrain-mark-{tmp_path.name}-{os.getpid()}"
    yield name
    assert alive(name) == [], "a test left processes behind"


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts an interpreter that runs a program, noisy about everything that it can warn of.

    But for a fork of a program with threads, which Python 3.12 and later warn of whatever they do.
    Tests may be started by something that ignores signals, which a program would inherit.
    """
    noisy = ["-X", "dev", "-W", "ignore:This process:DeprecationWarning"]

    def start(source: str, *arguments: str) -> subprocess.Popen[str]:
        program = tmp_path / "program.py"
        program.write_text(source)
        return subprocess.Popen(
            ["env", "--default-signal", sys.executable, *noisy, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return start


def ended(child: subprocess.Popen[str], seconds: float = 20) -> tuple[str, str]:
    """What a program prints until it ends by itself, which it does soon."""
    try:
        return child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        raise


def alive(mark: str) -> list[int]:
    """The processes that have this argument and are no zombies, not our own."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in arguments:
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Waits for something that nobody announces; says whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def sleeper(mark: str) -> str:
    """A command whose processes have the mark: a shell, a child, and a daemon that fled."""
    sleep = f"sh -c 'sleep 600; :' {mark}"
    return f"setsid {sleep} & {sleep} & echo ready; {sleep}"


def example(name: str) -> Any:
    """A program of `examples/adapters`, as a module."""
    path = Path(__file__).parents[2] / "examples/adapters" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
