"""Streams, running processes, and what is written to them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import pytest
from conftest import alive, sleeper, until

import openbrain
from openbrain import PIPE, AsyncStream, Ended, Event, Exec, Stderr, Stdout

if TYPE_CHECKING:
    from collections.abc import Sequence


def _text(events: Sequence[Event], kind: type[Stdout | Stderr]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_a_stream_gives_everything_and_then_the_end() -> None:
    stream = Exec("echo out; echo err >&2; exit 3").stream()
    events = list(stream)
    assert _text(events, Stdout) == "out\n"
    assert _text(events, Stderr) == "err\n"
    assert isinstance(events[-1], Ended)
    assert events[-1].output is stream.output
    assert events[-1].output.exit_code == 3
    assert events[-1].output.stdout_total == 4


def test_events_come_as_they_happen() -> None:
    """The second line is written only after the first was read."""
    with Exec("echo first; read answer; echo $answer").stdin(PIPE).spawn() as process:
        first = process.next_event()
        assert isinstance(first, Stdout)
        assert first.data == b"first\n"
        process.write("second\n")
        assert _text(list(process), Stdout) == "second\n"


def test_a_character_is_never_cut() -> None:
    program = "printf '\\303'; read x; printf '\\251'; read x; printf '\\303'"
    with Exec(program).stdin(PIPE).spawn() as process:
        events: list[Event] = []
        for event in process:
            events.append(event)
            if isinstance(event, Stdout) and event.data:
                process.write("\n")
    assert [event.text for event in events if isinstance(event, Stdout)] == ["", "é", "", "\ufffd"]


def test_breaking_out_kills_the_command(mark: str) -> None:
    with Exec(sleeper(mark)).stream() as stream:
        for event in stream:
            assert isinstance(event, Stdout)
            assert until(lambda: bool(alive(mark)))
            break
    assert alive(mark) == []


def test_dropping_kills_the_command(mark: str) -> None:
    stream = Exec(sleeper(mark)).stream()
    next(stream)
    assert until(lambda: bool(alive(mark)))
    del stream
    assert until(lambda: not alive(mark))


def test_leaving_the_block_kills_the_command(mark: str) -> None:
    with Exec(sleeper(mark)).spawn() as process:
        assert process.next_event() == Stdout(data=b"ready\n", text="ready\n")
        assert until(lambda: bool(alive(mark)))
    assert alive(mark) == []


def test_an_async_stream(mark: str) -> None:
    async def main() -> None:
        async with Exec(sleeper(mark)).stream_async() as stream:
            async for event in stream:
                assert isinstance(event, Stdout)
                break
        assert alive(mark) == []

    asyncio.run(main())


def test_cancelling_an_async_stream_kills_the_command(mark: str) -> None:
    async def read(stream: AsyncStream, started: asyncio.Event) -> None:
        async for _ in stream:
            started.set()

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(read(Exec(sleeper(mark)).stream_async(), started))
        await started.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert alive(mark) == []

    asyncio.run(main())


def test_cancelling_a_read_loses_nothing() -> None:
    async def main() -> str:
        async with await Exec("read x; echo $x").stdin(PIPE).spawn_async() as process:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.next_event_async(), 0.05)
            await process.write_async(b"still here\n")
            return _text([event async for event in process], Stdout)

    assert asyncio.run(main()) == "still here\n"


def test_waiting_gives_what_was_not_read() -> None:
    with Exec("echo one; read x; echo two").stdin(PIPE).spawn() as process:
        process.next_event()
        process.close_stdin()
        output = process.wait()
    assert output.stdout == "two\n"
    assert process.output is output
    with pytest.raises(openbrain.errors.CommandFailedError), Exec("exit 2").spawn() as failing:
        failing.wait(check=True)


def test_signals_reach_the_command() -> None:
    with Exec("trap 'echo caught; exit 7' INT; echo ready; sleep 600 & wait").spawn() as process:
        process.next_event()
        process.signal(signal.SIGINT)
        output = process.wait()
    assert (output.stdout, output.exit_code) == ("caught\n", 7)


def test_cancel_is_gentle_and_kill_is_not() -> None:
    command = "trap 'echo bye; exit' TERM; echo ready; sleep 600 & wait"
    for verb, said in (("cancel", "bye\n"), ("kill", "")):
        with Exec(command).spawn() as process:
            process.next_event()
            getattr(process, verb)()
            output = process.wait()
        assert (output.status, output.stdout) == ("cancelled", said)


def test_a_terminal_is_resized() -> None:
    command = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    with Exec(command).tty(24, 80).spawn() as process:
        process.next_event()
        process.resize(50, 100)
        assert "50 100" in _text(list(process), Stdout)


def test_writing_without_a_pipe_is_refused() -> None:
    with Exec("cat").spawn() as process, pytest.raises(openbrain.OpenbrainError, match="PIPE"):
        process.write("x")


def test_writing_to_a_command_that_reads_no_more_is_no_failure() -> None:
    with Exec("exec <&-; echo ready; sleep 600").stdin(PIPE).spawn() as process:
        process.next_event()
        process.write(b"x" * (1 << 20))


def test_a_process_knows_itself() -> None:
    with Exec("true").sandbox().spawn() as process:
        assert process.exec_id.startswith("exec_")
        assert process.backend == "embedded"
        assert process.isolation.level == "namespaces"
        assert repr(process) == f"<Process {process.exec_id} embedded>"
        output = process.wait()
    assert output.exec_id == process.exec_id
