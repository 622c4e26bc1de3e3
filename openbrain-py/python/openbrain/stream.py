"""The events of a command, which starts with the first of them."""

from __future__ import annotations

from .hints import typing
from .output import Output
from .process import Event, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from .request import Exec

__all__ = ["AsyncStream", "Stream"]


class Stream:
    """The events of a command, which starts with the first of them.

    Ending the loop early, by `close()`, the `with` block or an exception, kills the command.

        >>> import openbrain
        >>> for event in openbrain.Exec("echo one; sleep 0.1; echo two").stream():
        ...     match event:
        ...         case openbrain.Stdout(text=text):
        ...             print("got", text.strip())
        ...         case openbrain.Ended(output=output):
        ...             print(output.exit_code)
        got one
        got two
        0
    """

    __slots__ = ("_exec", "_process")

    def __init__(self, exec: Exec) -> None:
        """Made by `Exec.stream`."""
        self._exec = exec
        self._process: Process | None = None

    @property
    def output(self) -> Output | None:
        """The result, after the last event."""
        return None if self._process is None else self._process.output

    def close(self) -> None:
        """Kills the command, and waits until it is gone."""
        if self._process is not None:
            self._process.close()

    def __iter__(self) -> typing.Self:
        return self

    def __next__(self) -> Event:
        try:
            if self._process is None:
                self._process = self._exec.spawn()
            return next(self._process)
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream:
    """The events of a command, which starts with the first of them, for `async for`.

    Ending the loop early, by `aclose()`, the `async with` block or a cancellation, kills the
    command.

        >>> import asyncio, openbrain
        >>> async def main():
        ...     async for event in openbrain.Exec("echo one").stream_async():
        ...         print(type(event).__name__)
        >>> asyncio.run(main())
        Stdout
        Ended
    """

    __slots__ = ("_exec", "_process")

    def __init__(self, exec: Exec) -> None:
        """Made by `Exec.stream_async`."""
        self._exec = exec
        self._process: Process | None = None

    @property
    def output(self) -> Output | None:
        """The result, after the last event."""
        return None if self._process is None else self._process.output

    async def aclose(self) -> None:
        """Kills the command, and waits until it is gone. `contextlib.aclosing` calls it."""
        if self._process is not None:
            await self._process.close_async()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self.aclose()

    def __aiter__(self) -> typing.Self:
        return self

    async def __anext__(self) -> Event:
        try:
            if self._process is None:
                self._process = await self._exec.spawn_async()
            return await anext(self._process)
        except (StopAsyncIteration, GeneratorExit):
            raise
        except BaseException:
            await self.aclose()
            raise

    async def __aenter__(self) -> typing.Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
