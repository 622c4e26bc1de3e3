"""Interrupts, cancellations and ends: nothing hangs, nothing is left, nothing is printed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from conftest import alive, ended, sleeper, until

import openbrain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    Python = Callable[..., subprocess.Popen[str]]

# How soon Ctrl-C is raised, in milliseconds, by the wall of the tested program itself.
PROMISED_MS = 100
ATTEMPTS = 5

SANDBOXED = pytest.mark.parametrize("sandbox", [False, True])

INTERRUPTED = """
import sys, time, openbrain
from openbrain import Exec
mark, verb, sandbox = sys.argv[1:]
exec = Exec(SLEEPER.replace("MARK", mark))
exec = exec.sandbox() if sandbox == "True" else exec.direct()
try:
    if verb == "run":
        exec.run()
    elif verb == "wait":
        exec.spawn().wait()
    else:
        for event in exec.stream():
            pass
except KeyboardInterrupt:
    print(time.time())
"""


@SANDBOXED
@pytest.mark.parametrize("verb", ["run", "wait", "stream"])
def test_ctrl_c_kills_the_tree_and_is_raised(
    python: Python, mark: str, verb: str, sandbox: bool
) -> None:
    """Every time the tree is dead; and it is soon, but for what a busy machine adds."""
    late_ms: list[float] = []
    while not late_ms or (late_ms[-1] >= PROMISED_MS and len(late_ms) < ATTEMPTS):
        late_ms.append(_interrupt(python, mark, verb, sandbox))
    assert min(late_ms) < PROMISED_MS, late_ms


def _interrupt(python: Python, mark: str, verb: str, sandbox: bool) -> float:
    """How many milliseconds after Ctrl-C a program goes on, whose command is dead then."""
    source = INTERRUPTED.replace("SLEEPER", repr(sleeper("MARK")))
    child = python(source, mark, verb, str(sandbox))
    assert until(lambda: len(_commands(mark, child.pid)) >= 3)
    sent = time.time()
    child.send_signal(signal.SIGINT)
    out, err = ended(child)
    assert err == ""
    assert alive(mark) == []
    return (float(out) - sent) * 1000


def _commands(mark: str, interpreter: int) -> list[int]:
    return [pid for pid in alive(mark) if pid != interpreter]


def test_a_handler_that_does_not_raise_interrupts_nothing(python: Python) -> None:
    child = python("""
import signal, openbrain
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.05)
print(openbrain.exec("sleep 0.3; echo done").stdout)
""")
    assert ended(child) == ("alarm\ndone\n\n", "")


def test_a_handler_that_raises_kills_the_command(python: Python, mark: str) -> None:
    child = python(
        """
import signal, sys, openbrain
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    openbrain.exec(["sh", "-c", "sleep 600; :", sys.argv[1]])
except Late:
    print("late")
""",
        mark,
    )
    assert ended(child) == ("late\n", "")


def test_an_interrupt_that_is_no_signal_is_seen_too(python: Python) -> None:
    child = python("""
import _thread, threading, openbrain
threading.Timer(0.1, _thread.interrupt_main).start()
try:
    openbrain.exec("sleep 600")
except KeyboardInterrupt:
    print("interrupted")
""")
    assert ended(child) == ("interrupted\n", "")


def test_ctrl_c_in_asyncio_kills_the_tree(python: Python, mark: str) -> None:
    child = python(
        """
import asyncio, sys, openbrain
async def main():
    await asyncio.gather(*(openbrain.exec_async(sys.argv[2], sandbox=i > 0) for i in range(2)))
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
        mark,
        sleeper(mark),
    )
    assert until(lambda: len(_commands(mark, child.pid)) >= 6)
    child.send_signal(signal.SIGINT)
    assert ended(child) == ("interrupted\n", "")


@SANDBOXED
def test_cancelling_a_task_kills_the_tree_before_it_returns(mark: str, sandbox: bool) -> None:
    async def main() -> None:
        task = asyncio.create_task(openbrain.exec_async(sleeper(mark), sandbox=sandbox))
        while len(alive(mark)) < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive(mark) == []

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(8))
def test_cancelling_a_start_leaves_nothing(mark: str, turns: int) -> None:
    """Cancelled at every moment of a start: before it, during it, right after it."""

    async def main() -> None:
        task = asyncio.create_task(openbrain.exec_async(sleeper(mark), sandbox=turns % 2 == 0))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert until(lambda: not alive(mark), 2)


def test_a_timeout_of_asyncio_kills_the_tree(mark: str) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(openbrain.exec_async(sleeper(mark)), 0.3)
        assert alive(mark) == []

    asyncio.run(main())


def test_a_failed_sibling_kills_the_tree(mark: str) -> None:
    async def fail() -> None:
        while len(alive(mark)) < 3:
            await asyncio.sleep(0.005)
        raise KeyError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(openbrain.exec_async(sleeper(mark)))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    assert alive(mark) == []


def test_a_task_cancelled_again_and_again_is_cancelled(mark: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(openbrain.exec_async(sleeper(mark)))
        while len(alive(mark)) < 3:
            await asyncio.sleep(0.005)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert alive(mark) == []

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:coroutine 'exec_async' was never awaited:RuntimeWarning")
def test_a_call_that_is_not_awaited_starts_nothing(mark: str) -> None:
    pending: Coroutine[object, object, object] | None = openbrain.exec_async(sleeper(mark))
    assert pending is not None
    del pending
    gc.collect()
    assert alive(mark) == []


def test_a_closed_loop_kills_what_it_ran(mark: str) -> None:
    """The loop is closed under a running call, which nobody cancels: it is garbage then."""
    loop = asyncio.new_event_loop()
    call = openbrain.exec_async(sleeper(mark))

    async def begin(step: Callable[[None], object]) -> None:
        step(None)

    loop.run_until_complete(begin(call.send))
    assert until(lambda: len(alive(mark)) >= 3)
    loop.close()
    del call
    gc.collect()
    assert until(lambda: not alive(mark))


def test_a_loop_that_is_closed_early_hears_nothing(python: Python) -> None:
    """The command ends after its loop. Python's own complaint about the task is asyncio's."""
    child = python("""
import asyncio, logging, sys, time, openbrain
logging.getLogger("asyncio").disabled = True
loop = asyncio.new_event_loop()
task = loop.create_task(openbrain.exec_async("sleep 0.2"))
loop.run_until_complete(asyncio.sleep(0.05))
loop.close()
time.sleep(0.4)
print("end")
""")
    assert ended(child) == ("end\n", "")


def test_a_loop_in_each_thread() -> None:
    found: list[str] = []

    def work(i: int) -> None:
        found.append(asyncio.run(openbrain.exec_async(f"echo {i}", timeout=20)).stdout)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{i}\n" for i in range(4)]


def test_ctrl_c_reaches_the_main_thread_while_others_wait(
    python: Python, mark: str, tmp_path: Path
) -> None:
    """Whoever waits in another thread is not interrupted, as with everything that blocks."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    child = python(
        """
import pathlib, sys, threading, openbrain
found, gate = [], pathlib.Path(sys.argv[2])
other = threading.Thread(target=lambda: found.append(openbrain.exec(["cat", gate]).stdout))
other.start()
try:
    openbrain.exec(["sh", "-c", "sleep 600; :", sys.argv[1]])
except KeyboardInterrupt:
    gate.write_text("through")
other.join()
print(*found)
""",
        mark,
        str(gate),
    )
    assert until(lambda: bool(_commands(mark, child.pid)))
    child.send_signal(signal.SIGINT)
    assert ended(child) == ("through\n", "")


IN_FLIGHT = {
    "spawned": "process = exec.spawn()",
    "streamed": "stream = exec.stream(); next(stream)",
    "in a daemon thread": "threading.Thread(target=exec.run, daemon=True).start()",
    "in a loop of a daemon thread": (
        "threading.Thread(target=lambda: asyncio.run(exec.run_async()), daemon=True).start()"
    ),
    "in a task that nobody awaits": (
        "loop = asyncio.new_event_loop(); task = loop.create_task(exec.run_async())\n"
        "loop.run_until_complete(asyncio.sleep(0.1)); task._log_destroy_pending = False\n"
        "loop.close()"
    ),
}


@SANDBOXED
@pytest.mark.parametrize("body", IN_FLIGHT.values(), ids=IN_FLIGHT)
@pytest.mark.parametrize("end", ["pass", "sys.exit(0)"])
def test_the_interpreter_ends_with_runs_in_flight(
    python: Python, mark: str, body: str, end: str, sandbox: bool
) -> None:
    child = python(
        f"""
import asyncio, sys, threading, openbrain
exec = openbrain.Exec(sys.argv[1])
exec = exec.sandbox() if {sandbox} else exec
{body}
sys.stdin.readline()
{end}
""",
        sleeper(mark),
    )
    assert until(lambda: len(_commands(mark, child.pid)) >= 3)
    assert ended(child) == ("", "")
    assert child.returncode == 0
    assert until(lambda: not alive(mark))


def test_the_interpreter_is_killed_with_runs_in_flight(python: Python, mark: str) -> None:
    """Nobody tidies up then but the helpers."""
    child = python(INTERRUPTED.replace("SLEEPER", repr(sleeper("MARK"))), mark, "run", "True")
    assert until(lambda: len(_commands(mark, child.pid)) >= 3)
    child.kill()
    ended(child)
    assert until(lambda: not alive(mark))


def test_ctrl_c_ends_a_wait_of_the_end(python: Python) -> None:
    """The helper of the sandbox is stopped and never says that it has ended what it should."""
    child = python("""
import os, pathlib, signal, openbrain
sandbox = openbrain.Sandbox(timeout=60, network=False)
sandbox.open()
tasks = pathlib.Path("/proc/self/task")
(helper,) = {pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
os.kill(int(helper), signal.SIGSTOP)
print(helper, flush=True)
""")
    assert child.stdout is not None
    helper = int(child.stdout.readline())
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, err = ended(child)
        assert time.monotonic() - sent < 5
        assert "KeyboardInterrupt" in err
    finally:
        os.kill(helper, signal.SIGCONT)


def test_calls_at_the_very_end_are_calls(python: Python) -> None:
    """Whatever is left after the package has tidied up starts anew and is tidied up by its end."""
    child = python("""
import atexit
def late():
    import openbrain
    print(openbrain.exec("echo late").stdout, end="")
atexit.register(late)
import openbrain
""")
    assert ended(child) == ("late\n", "")


def test_many_cancellations_leave_nothing(mark: str) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(openbrain.exec_async(sleeper(mark))) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert until(lambda: not alive(mark))
