"""Forks: the child has commands of its own, and no say in those of its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import alive, ended, sleeper, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Python = Callable[..., subprocess.Popen[str]]

FORKED = """
import asyncio, os, sys, openbrain
def once(sandbox):
    assert openbrain.exec("echo sync", sandbox=sandbox).stdout == "sync\\n"
    run = openbrain.exec_async("echo async", sandbox=sandbox)
    assert asyncio.run(run).stdout == "async\\n"
    assert len(list(openbrain.Exec("echo stream").stream())) == 2
for sandbox in (False, True):
    once(sandbox)
running = openbrain.Exec("sleep 600 #" + sys.argv[1]).sandbox().spawn()
child = os.fork()
if child == 0:
    for sandbox in (False, True):
        once(sandbox)
    try:
        running.kill()
    except openbrain.errors.InvalidRequestError as error:
        print(error, flush=True)
    del running
    grandchild = os.fork()
    if grandchild == 0:
        once(True)
        sys.exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
once(True)
running.kill()
print(status, running.wait().status)
"""


def test_a_forked_child_runs_commands_of_its_own(python: Python, mark: str) -> None:
    child = python(FORKED, mark)
    out, err = ended(child)
    assert (out, err) == (
        "the command belongs to the process that this one was forked from\n0 cancelled\n",
        "",
    )


def test_a_fork_that_lives_on_keeps_no_command_alive(python: Python, mark: str) -> None:
    """The child has copies of the sockets to the helper; the parent's end must not wait for it."""
    child = python(
        """
import os, pathlib, sys, time, openbrain
running = [openbrain.Exec(sys.argv[1]).spawn(), openbrain.Exec(sys.argv[1]).sandbox().spawn()]
for process in running:
    process.next_event()
keeper = os.fork()
if keeper == 0:
    os.read(0, 1)
    os._exit(0)
for process in running:
    process.close()
    print(process.wait().status)
del running, process
children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
helpers = lambda: children.read_text().split()
end = time.monotonic() + 5
while len(helpers()) > 1 and time.monotonic() < end:
    openbrain.exec("true")
print(helpers() == [str(keeper)])
os.kill(keeper, 9)
os.waitpid(keeper, 0)
""",
        sleeper(mark),
    )
    out, err = ended(child)
    assert (out, err) == ("cancelled\ncancelled\nTrue\n", "")


LEFT = """
import asyncio, functools, os, sys, openbrain
from openbrain import Exec, Sandbox
print = functools.partial(print, flush=True)
def forked():
    child = os.fork()
    if child == 0:
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def blocks():
    with Sandbox(timeout=60, network=False) as sandbox, sandbox.files.watch() as watch:
        with sandbox.forward(80), sandbox.command("echo one; read x; echo two").stream() as stream:
            next(stream)
            with Exec("cat").stdin(openbrain.PIPE).spawn() as process:
                print(forked())
                process.write("still here")
                print(process.wait().stdout, sandbox.exec("echo open").stdout.strip())
                sandbox.files.mkdir("d")
                print(next(watch).path)
async def async_blocks():
    # Waiting for the child is slow, which -X dev would tell of.
    asyncio.get_running_loop().slow_callback_duration = 60
    async with Sandbox(timeout=60, network=False) as sandbox:
        async with await sandbox.files.watch_async(), Exec("sleep 60").stream_async():
            print(forked())
            print((await sandbox.exec_async("echo open")).stdout.strip())
blocks()
asyncio.run(async_blocks())
"""


def test_a_forked_child_leaves_the_blocks_of_its_parent(python: Python) -> None:
    expected = "0\nstill here open\nd\n0\nopen\n"
    assert ended(python(LEFT), 40) == (expected, "")


@pytest.mark.parametrize("call", ["openbrain.exec('true', sandbox=True)", "sandbox.open()"])
def test_a_forked_child_asks_the_server_itself(python: Python, call: str) -> None:
    """The thread that makes sandboxes on a server is the parent's."""
    child = python(f"""
import os, openbrain
os.environ["OPENBRAIN_SERVER_URL"] = "http://127.0.0.1:9"
def ask():
    sandbox = openbrain.Sandbox()
    try:
        {call}
    except openbrain.errors.SandboxUnavailableError:
        print("refused", flush=True)
ask()
child = os.fork()
if child == 0:
    ask()
    raise SystemExit
os.waitpid(child, 0)
""")
    assert ended(child) == ("refused\nrefused\n", "")


POOLED = """
import os, sys, time, openbrain
os.environ["OPENBRAIN_POOL"] = "1"
def warm():
    end = time.monotonic() + 20
    while openbrain.exec("true", sandbox=True, network=False).start != "warm":
        assert time.monotonic() < end
    print("warm", flush=True)
warm()
if os.fork() == 0:
    warm()
    sys.exit()
os.wait()
warm()
"""


def test_a_forked_child_has_a_pool_of_its_own(python: Python) -> None:
    assert ended(python(POOLED), 60) == ("warm\n" * 3, "")


def test_multiprocessing_with_fork(python: Python) -> None:
    child = python("""
import multiprocessing, openbrain
def work(i):
    return openbrain.exec(f"echo {i}", sandbox=i % 2 == 0).stdout
if __name__ == "__main__":
    openbrain.exec("true", sandbox=True)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print("".join(pool.map(work, range(9))).split())
""")
    assert ended(child, 40) == (f"{[str(i) for i in range(9)]}\n", "")


def test_workers_that_were_forked_from_a_busy_server(python: Python, mark: str) -> None:
    """As gunicorn does: load, fork workers, let them work, end them by SIGTERM."""
    child = python(
        """
import os, signal, sys, time, openbrain
openbrain.exec("true", sandbox=True)
ours, theirs = os.pipe()
workers = []
for _ in range(3):
    worker = os.fork()
    if worker == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        for event in openbrain.Exec(sys.argv[1]).stream():
            os.write(theirs, b".")
        os._exit(1)
    workers.append(worker)
for _ in workers:
    os.read(ours, 1)
for worker in workers:
    os.kill(worker, signal.SIGTERM)
print([os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers])
""",
        sleeper(mark),
    )
    assert ended(child) == ("[0, 0, 0]\n", "")
    assert until(lambda: not alive(mark))
