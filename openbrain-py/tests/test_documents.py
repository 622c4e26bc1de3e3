"""What is written for people does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import openbrain

ROOT = Path(__file__).parents[2]
MODULES = [
    name for _, name, _ in pkgutil.iter_modules(openbrain.__path__, "openbrain.")
    if not name.endswith(("__main__", "_openbrain"))
]  # fmt: skip


@pytest.mark.parametrize("name", ["openbrain", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_verb_has_an_example() -> None:
    for value in (
        openbrain,
        openbrain.exec,
        openbrain.exec_async,
        openbrain.doctor,
        openbrain.errors,
        openbrain.AsyncStream,
        openbrain.Background,
        openbrain.Changes,
        openbrain.Exec,
        openbrain.FileWatch,
        openbrain.Files,
        openbrain.Forward,
        openbrain.Output,
        openbrain.Process,
        openbrain.Sandbox,
        openbrain.SavedChanges,
        openbrain.Shell,
        openbrain.Stream,
    ):
        assert ">>> " in (value.__doc__ or ""), value


def test_everything_public_is_documented() -> None:
    names = [name for name in openbrain.__all__ if name.isidentifier() and name[0].isalpha()]
    for name in names:
        value = getattr(openbrain, name)
        assert value.__doc__, name
        for item in _members(value) if isinstance(value, type) else ():
            member = getattr(value, item)
            if callable(member) or isinstance(member, property):
                assert member.__doc__, f"{name}.{item}"


def _members(kind: type) -> list[str]:
    """What is public of a class, and of those that it is made of."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("openbrain")]
    return [item for base in ours for item in vars(base) if not item.startswith("_")]


@pytest.mark.parametrize("document", ["docs/python.md", "README.md"])
def test_programs_in_documents(document: str) -> None:
    """The programs of a document are one program, in the order in which they stand."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert programs
    exec(compile("\n".join(programs), document, "exec"), {})


def test_the_quick_start() -> None:
    program = [sys.executable, "-X", "dev", str(ROOT / "examples/quickstart.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1. exited ['/workspace', '0'] namespaces",
        "2. new → made inside",
        "3. 3 timed_out",
        "3. `no-such-program` was not found",
        "3. the command exited with code 3: no luck",
        "4. Stdout one",
        "4. Stderr two",
        "4. ended: 0",
        "5. 0 1 4 9 16",
        "6. modified /workspace/notes",
        "6. one two",
    ]


def test_the_command_is_installed() -> None:
    module = [sys.executable, "-m", "openbrain", "exec", "--sandbox", "echo hello; exit 3"]
    done = subprocess.run(module, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", "")
    from openbrain.__main__ import command

    assert Path(command()).is_relative_to(Path(sys.prefix).resolve())
    version = subprocess.run([command(), "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.split()[-1] == openbrain.__version__


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="this Python has a wheel of its own"
)
def test_one_wheel_is_for_every_python() -> None:
    """By its record of itself: `cp311-abi3` loads from 3.11 on."""
    wheel = metadata.distribution("openbrain").read_text("WHEEL")
    assert wheel is not None
    (tag,) = [line.split()[1] for line in wheel.splitlines() if line.startswith("Tag: ")]
    assert tag.startswith("cp311-abi3-")


def test_importing_takes_no_slow_module() -> None:
    """What makes the import fast: these take longer than openbrain itself."""
    program = "import sys, openbrain; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"asyncio", "dataclasses", "inspect", "json", "subprocess", "typing"}
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert slow & set(done.stdout.split()) <= slow & set(before)


def test_nothing_is_printed_and_no_thread_started_by_importing() -> None:
    program = "import os, openbrain; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_importing_it_imports_nothing_slow() -> None:
    """Neither the adapters nor what most programs with openbrain have no use for."""
    slow = ["asyncio", "dataclasses", "datetime", "inspect", "json", "openbrain.adapters", "typing"]
    program = f"import sys, openbrain; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _found(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def _found(program: str) -> str:
    """The program with the installed package on its path, but for what `site` imports."""
    return f"import sys; sys.path.append({str(Path(openbrain.__file__).parents[1])!r}); {program}"
