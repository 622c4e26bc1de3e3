"""A running command, and what happens to it."""

from __future__ import annotations

import codecs

from .content import content
from .errors import OpenbrainError
from .hints import Bytes, datetime, typing
from .output import Isolation, Output
from .record import Record
from .waiting import seconds, wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ._openbrain import Pending
    from ._openbrain import Process as Native

__all__ = ["Ended", "Event", "Process", "Stderr", "Stdout"]


class _Chunk(Record):
    data: bytes
    text: str
    __slots__ = __match_args__ = ("data", "text")


class Stdout(_Chunk):
    """Bytes of standard output, as they came.

    Attributes:
        data: The bytes. Empty when `text` is what was held back at the end.
        text: The same as text. A character that is not complete yet is held back.
    """

    __slots__ = ()


class Stderr(_Chunk):
    """Bytes of standard error, as they came.

    Attributes:
        data: The bytes. Empty when `text` is what was held back at the end.
        text: The same as text. A character that is not complete yet is held back.
    """

    __slots__ = ()


class Ended(Record):
    """The command ended.

    Attributes:
        output: The result. Its streams hold what was not read as events.
    """

    output: Output
    __slots__ = __match_args__ = ("output",)

    def __init__(self, output: Output) -> None:
        super().__init__(output=output)


Event = Stdout | Stderr | Ended


class Process:
    """A running command: its events, its standard input, and the ways to end it.

    Events come as fast as they are read; a slow reader slows the command. The deadline fires though
    nobody reads. Leaving the `with` block, or dropping the process, kills the command with
    everything that it started. Each verb that waits has a twin whose name ends in `_async`.

        >>> import openbrain
        >>> with openbrain.Exec("tr a-z A-Z").stdin(openbrain.PIPE).spawn() as process:
        ...     process.write("hello")
        ...     process.close_stdin()
        ...     process.wait().stdout
        'HELLO'
    """

    __slots__ = ("_args", "_isolation", "_native", "_queue", "_text", "output")

    output: Output | None
    """The result, once the command has ended and that was read."""

    def __init__(self, native: Native, args: str | tuple[str, ...]) -> None:
        """Made by `Exec.spawn`."""
        utf8 = codecs.getincrementaldecoder("utf-8")
        self._native = native
        self._args = args
        self._isolation = Isolation(**native.isolation)
        self._text = {"stdout": utf8("replace"), "stderr": utf8("replace")}
        self._queue: list[Event] = []
        self.output = None

    @property
    def exec_id(self) -> str:
        """Name of this execution, unique and unguessable."""
        return self._native.exec_id

    @property
    def backend(self) -> str:
        """Where the command runs: `direct`, `embedded` or `opensandbox`."""
        return self._native.backend

    @property
    def isolation(self) -> Isolation:
        """What is enforced around the command."""
        return self._isolation

    def next_event(self) -> Event | None:
        """The next event; `None` after `Ended`."""
        while not self._queue:
            pending = self._native.next_event()
            try:
                answer = wait(pending)
            except BaseException:
                self._rescue(pending)
                raise
            if answer is None:
                return None
            self._record(*answer)
        return self._queue.pop(0)

    async def next_event_async(self) -> Event | None:
        """The next event; `None` after `Ended`. Cancelling it loses nothing."""
        while not self._queue:
            pending = self._native.next_event()
            try:
                answer = await wait_async(pending)
            except BaseException:
                self._rescue(pending)
                raise
            if answer is None:
                return None
            self._record(*answer)
        return self._queue.pop(0)

    def wait_for_output(
        self, text: Bytes | str, timeout: float | datetime.timedelta | None = None
    ) -> bool:
        """Waits until standard output or standard error has this text; false when both have ended.

        Events and the result have what was read meanwhile. A further call goes on behind what the
        last one has found.

        Args:
            text: Up to 4096 bytes.
            timeout: Seconds or a `timedelta` to wait at most.

        Raises:
            WaitTimeoutError: The time is over.
            WaitFailedError: The command has said 8 MiB that nobody has read.
        """
        return wait(self._native.wait_for_output(content(text), seconds(timeout)))

    async def wait_for_output_async(
        self,
        text: Bytes | str,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
    ) -> bool:
        """As `wait_for_output`. Cancelling it loses nothing, and leaves the command running."""
        return await wait_async(self._native.wait_for_output(content(text), seconds(timeout)))

    def wait(
        self, timeout: float | datetime.timedelta | None = None, *, check: bool = False
    ) -> Output:
        """Waits for the end; the result has the output that was not read as events.

        Standard input is closed, as soon as what is being written is written. Whoever waits again
        gets the same result. Ctrl-C kills the command.

        Args:
            timeout: Seconds or a `timedelta` to wait at most. The command runs on when they are
                over, and what it says is for the result from then on: whoever reads events gets
                the end alone. Until somebody waits again, nobody reads what it says.
            check: Raise unless the command succeeds.

        Raises:
            WaitTimeoutError: The time is over.
        """
        if self.output is None:
            self._finish(wait(self._native.wait(seconds(timeout))))
        return self._result(check)

    async def wait_async(
        self,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        *,
        check: bool = False,
    ) -> Output:
        """As `wait`. Cancelling it kills the command; the end of `timeout` does not."""
        if self.output is None:
            self._finish(await wait_async(self._native.wait(seconds(timeout))))
        return self._result(check)

    def write(self, data: Bytes | str) -> None:
        """Writes to standard input; returns when the command has room for everything.

        What is written after the command has closed its input is dropped.
        """
        wait(self._native.write(content(data)))

    async def write_async(self, data: Bytes | str) -> None:
        """As `write`."""
        await wait_async(self._native.write(content(data)))

    def close_stdin(self) -> None:
        """Ends standard input."""
        wait(self._native.close_stdin())

    async def close_stdin_async(self) -> None:
        """As `close_stdin`."""
        await wait_async(self._native.close_stdin())

    def signal(self, signal: int) -> None:
        """Sends a signal to the command's process group. The result says what came of it."""
        self._native.signal(signal)

    def cancel(self) -> None:
        """Ends the command: TERM, half a second later KILL to every process."""
        self._native.cancel()

    def kill(self) -> None:
        """Kills every process of the command at once."""
        self._native.kill()

    def resize(self, rows: int, cols: int) -> None:
        """Changes the size of the pseudo-terminal."""
        self._native.resize(rows, cols)

    def close(self) -> None:
        """Kills every process of the command, and waits until they are gone.

        In a forked child, whose parent has the command, it does nothing.
        """
        if self._native.is_own():
            wait(self._native.close())

    async def close_async(self) -> None:
        """As `close`."""
        if self._native.is_own():
            await wait_async(self._native.close())

    def __iter__(self) -> typing.Self:
        return self

    def __next__(self) -> Event:
        event = self.next_event()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> typing.Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.next_event_async()
        if event is None:
            raise StopAsyncIteration
        return event

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> typing.Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close_async()

    def __repr__(self) -> str:
        return f"<Process {self.exec_id} {self.backend}>"

    def _record(self, kind: str, data: typing.Any) -> None:
        if kind != "ended":
            self._append(kind, data, self._text[kind].decode(data))
            return
        for stream, decoder in self._text.items():
            if held := decoder.decode(b"", final=True):
                self._append(stream, b"", held)
        self.output = Output.of(self._args, data)
        self._queue.append(Ended(self.output))

    def _append(self, stream: str, data: bytes, text: str) -> None:
        chunk = Stdout if stream == "stdout" else Stderr
        self._queue.append(chunk(data=data, text=text))

    def _rescue(self, pending: Pending[tuple[str, typing.Any] | None]) -> None:
        """Keeps an event that came in the moment in which the wait for it was given up."""
        if not pending.done():
            return
        try:
            answer = pending.take()
        except OpenbrainError:
            # It was taken, or is told again to whoever asks next.
            return
        if answer is not None:
            self._record(*answer)

    def _finish(self, answer: tuple[dict[str, typing.Any], bytes, bytes]) -> None:
        # Somebody else who waited may have been faster.
        if self.output is None:
            self.output = Output.of(self._args, answer)

    def _result(self, check: bool) -> Output:
        assert self.output is not None
        return self.output.check() if check else self.output
