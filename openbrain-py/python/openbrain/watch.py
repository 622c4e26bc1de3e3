"""What happens to the files of a sandbox, while it happens."""

from __future__ import annotations

from .errors import OpenbrainError
from .hints import typing
from .record import Record
from .waiting import wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ._openbrain import Pending
    from ._openbrain import Watch as Native

    _Told: typing.TypeAlias = tuple[str, str, bool]

__all__ = ["FileChange", "FileWatch"]


class FileChange(Record):
    """Something that has happened to a file of a sandbox.

    Attributes:
        path: Below the directory that is watched.
        kind: `created` and `removed` also for another name; `attributes` are permissions, owner and
            times; after `lost` more has happened there than could be told: look at it anew, without
            a path at the whole directory.
        is_directory: Whether it is a directory.
    """

    path: str
    kind: typing.Literal["created", "modified", "removed", "attributes", "lost"]
    is_directory: bool
    __slots__ = __match_args__ = ("path", "kind", "is_directory")


class FileWatch:
    """The changes below a directory of a sandbox, for `for` and `async for`.

    They end when the directory is gone, or by `close`, the `with` block or dropping it.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox, sandbox.files.watch() as watch:
        ...     sandbox.files.mkdir("new")
        ...     next(watch)
        FileChange(path='new', kind='created', is_directory=True)
    """

    __slots__ = ("_native", "_queue")

    def __init__(self, native: Native) -> None:
        """Made by `Files.watch`."""
        self._native = native
        self._queue: list[FileChange] = []

    def next_change(self) -> FileChange | None:
        """The next change; `None` at the end."""
        if not self._queue:
            pending = self._native.next_change()
            try:
                return _change(wait(pending))
            except BaseException:
                self._rescue(pending)
                raise
        return self._queue.pop(0)

    async def next_change_async(self) -> FileChange | None:
        """As `next_change`. Cancelling it loses nothing."""
        if not self._queue:
            pending = self._native.next_change()
            try:
                return _change(await wait_async(pending))
            except BaseException:
                self._rescue(pending)
                raise
        return self._queue.pop(0)

    def close(self) -> None:
        """Ends the watch, and whoever waits for its next change.

        In a forked child, whose parent has the watch, it does nothing.
        """
        if self._native.is_own():
            wait(self._native.close())

    async def close_async(self) -> None:
        """As `close`."""
        if self._native.is_own():
            await wait_async(self._native.close())

    def __iter__(self) -> typing.Self:
        return self

    def __next__(self) -> FileChange:
        change = self.next_change()
        if change is None:
            raise StopIteration
        return change

    def __aiter__(self) -> typing.Self:
        return self

    async def __anext__(self) -> FileChange:
        change = await self.next_change_async()
        if change is None:
            raise StopAsyncIteration
        return change

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

    def _rescue(self, pending: Pending[_Told | None]) -> None:
        """Keeps a change that came in the moment in which the wait for it was given up."""
        if not pending.done():
            return
        try:
            change = _change(pending.take())
        except OpenbrainError:
            return
        if change is not None:
            self._queue.append(change)


def _change(told: _Told | None) -> FileChange | None:
    if told is None:
        return None
    path, kind, is_directory = told
    return FileChange(path=path, kind=kind, is_directory=is_directory)
