"""Streams, running processes, and what is written to them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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


def test_an_async_stream_is_closed_by_contextlib(mark: str) -> None:
    async def main() -> None:
        async with contextlib.aclosing(Exec(sleeper(mark)).stream_async()) as stream:
            await anext(stream)
            assert until(lambda: bool(alive(mark)))
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


def test_waiting_after_the_last_event_gives_the_same_end() -> None:
    with Exec("echo one; exit 3").spawn() as process:
        events = list(process)
        assert isinstance(events[-1], Ended)
        assert process.wait() is events[-1].output
        assert (process.wait().exit_code, process.wait().status) == (3, "exited")
        with pytest.raises(openbrain.errors.CommandFailedError):
            process.wait(check=True)
        assert process.next_event() is None


def test_waiting_too_long_leaves_the_command_running(mark: str) -> None:
    exec = Exec(f"echo one; sh -c 'sleep 600; :' {mark}; echo two; exit 3")
    with exec.spawn() as process:
        with pytest.raises(TimeoutError, match="did not end in time") as caught:
            process.wait(0.1)
        assert isinstance(caught.value, openbrain.errors.WaitTimeoutError)
        with pytest.raises(openbrain.errors.WaitTimeoutError):
            asyncio.run(process.wait_async(timedelta(milliseconds=50)))
        with pytest.raises(ValueError, match="collected"):
            process.wait_for_output("one")
        assert process.output is None
        assert until(lambda: bool(alive(mark)))
        process.signal(signal.SIGINT)
        output = process.wait(20)
    assert (output.stdout, output.success) == ("one\n", False)


def test_waiting_too_long_leaves_the_end_to_be_read() -> None:
    with Exec("echo one; sleep 0.3; echo two").spawn() as process:
        with pytest.raises(TimeoutError):
            process.wait(0)
        (event,) = list(process)
        assert isinstance(event, Ended)
        assert process.wait() is event.output is process.output
        assert event.output.stdout == "one\ntwo\n"
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"), Exec("true").spawn() as other:
                other.wait(wrong)


def test_waiting_twice_gives_the_same_result() -> None:
    async def main() -> None:
        async with await Exec("echo one; exit 3").spawn_async() as process:
            both = await asyncio.gather(process.wait_async(), process.wait_async())
            assert both[0] is both[1] is process.wait()
            assert both[0].stdout == "one\n"

    asyncio.run(main())


def test_waiting_reads_what_a_writer_waits_for() -> None:
    async def main() -> None:
        big = b"x" * (8 << 20)
        async with await Exec("cat").stdin(PIPE).spawn_async() as process:
            _, output = await asyncio.wait_for(
                asyncio.gather(process.write_async(big), process.wait_async()), 30
            )
            assert (output.exit_code, output.stdout_total) == (0, len(big))

    asyncio.run(main())


def test_giving_up_to_wait_kills_though_somebody_writes(mark: str) -> None:
    async def main() -> None:
        exec = Exec(["sh", "-c", "sleep 600; :", mark]).stdin(PIPE)
        async with await exec.spawn_async() as process:
            writer = asyncio.create_task(process.write_async(b"x" * (8 << 20)))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait_async(), 0.1)
            assert alive(mark) == []
            await writer

    asyncio.run(main())


class _GivenUp(BaseException):
    pass


def _give_up(pending: Any) -> None:
    assert until(pending.done)
    raise _GivenUp


async def _give_up_async(pending: Any) -> None:
    _give_up(pending)


def test_an_event_that_comes_while_the_wait_is_given_up_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Ctrl-C and a cancellation do that come when the event is there and not taken yet."""
    with Exec("echo one; read x; echo two").stdin(PIPE).spawn() as process:
        with monkeypatch.context() as patch:
            patch.setattr("openbrain.process.wait", _give_up)
            patch.setattr("openbrain.process.wait_async", _give_up_async)
            with pytest.raises(_GivenUp):
                process.next_event()
        assert process.next_event() == Stdout(data=b"one\n", text="one\n")
        process.write("\n")
        with monkeypatch.context() as patch:
            patch.setattr("openbrain.process.wait_async", _give_up_async)
            with pytest.raises(_GivenUp):
                asyncio.run(process.next_event_async())
        assert _text(list(process), Stdout) == "two\n"


def test_output_is_waited_for_and_not_taken() -> None:
    async def main() -> None:
        exec = Exec("echo one; read x; echo two >&2; read x").stdin(PIPE)
        async with await exec.spawn_async() as process:
            assert process.wait_for_output("one", 20)
            with pytest.raises(openbrain.errors.WaitTimeoutError, match="two"):
                await process.wait_for_output_async(b"two", timedelta(milliseconds=50))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait_for_output_async("two"), 0.05)
            await process.write_async("\n")
            assert await process.wait_for_output_async("two", 20)
            await process.write_async("\n")
            assert not process.wait_for_output("three")
            with pytest.raises(ValueError, match="bytes"):
                process.wait_for_output("")
            output = await process.wait_async()
            assert (output.stdout, output.stderr) == ("one\n", "two\n")
            assert not process.wait_for_output("one")

    asyncio.run(main())


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
    for exec in (Exec("cat"), Exec("cat").stdin(PIPE)):
        with exec.spawn() as process:
            process.close_stdin()
            with pytest.raises(openbrain.errors.InvalidRequestError, match="PIPE") as caught:
                process.write("x")
        assert caught.value.code == "invalid_request"


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
