"""openbrain from Python, in six steps: `pip install .`, then `python examples/quickstart.py`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import openbrain
from openbrain import Ended, Exec, Stderr, Stdout


def one_line() -> None:
    """A command in a sandbox: its own files, its own processes, no network."""
    result = openbrain.exec("pwd; ls -A ~ | wc -l", sandbox=True, network=False, timeout=60)
    print("1.", result.status, result.stdout.split(), result.isolation.level)


def a_directory() -> None:
    """A directory of the host, at /workspace."""
    with tempfile.TemporaryDirectory() as directory:
        request = Exec("echo made inside > new; ls").sandbox().network(False).mount(directory)
        print("2.", request.run().stdout.strip(), "→", Path(directory, "new").read_text().strip())


def failures() -> None:
    """A command that fails is a value; a command that cannot run is an exception."""
    print("3.", openbrain.exec("exit 3").exit_code, openbrain.exec("sleep 9", timeout=0.1).status)
    try:
        openbrain.exec(["no-such-program"])
    except FileNotFoundError as error:
        print("3.", error)
    try:
        openbrain.exec("echo no luck >&2; exit 3", check=True)
    except openbrain.errors.CommandFailedError as error:
        print("3.", error)


def live() -> None:
    """Output while the command runs."""
    for event in Exec("echo one; echo two >&2").sandbox().stream():
        match event:
            case Stdout(text=text) | Stderr(text=text):
                print("4.", type(event).__name__, text.strip())
            case Ended(output=output):
                print("4. ended:", output.exit_code)


async def at_once() -> None:
    """Many commands in one event loop."""
    results = await asyncio.gather(
        *(openbrain.exec_async(f"echo $(({n} * {n}))", sandbox=True) for n in range(5))
    )
    print("5.", *(result.stdout.strip() for result in results))


def changes() -> None:
    """What a command has changed, looked at before it is applied to the host."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "notes")
        file.write_text("one\n")
        request = Exec("echo two >> notes").sandbox().network(False).changes()
        result = request.mount(directory, mode="overlay").run(check=True)
        if result.changes is not None and (saved := result.changes.save()) is not None:
            print("6.", *(f"{change.change} {change.path}" for change in result.changes.entries))
            saved.apply()
        print("6.", *file.read_text().split())


if __name__ == "__main__":
    one_line()
    a_directory()
    failures()
    live()
    asyncio.run(at_once())
    changes()
