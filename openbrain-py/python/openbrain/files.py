"""The files of a sandbox that stays open."""

from __future__ import annotations

import os

from .record import Record
from .waiting import wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeAlias

    from ._openbrain import Sandbox as Native

    _Path: TypeAlias = str | os.PathLike[str]

__all__ = ["FileEntry", "Files", "Transfer"]


class FileEntry(Record):
    """What is known of a file.

    Attributes:
        path: As asked for by `stat`, a name by `list`, below the directory by `search`.
        kind: What it is; links are not followed.
        mode: Permissions: the lower twelve bits of `st_mode`.
        size: Bytes.
        modified: When its content was changed last, in seconds since 1970.
        target: Where a link leads.
    """

    path: str
    kind: Literal["file", "directory", "link", "other"]
    mode: int
    size: int
    modified: float
    target: str | None
    __slots__ = __match_args__ = ("path", "kind", "mode", "size", "modified", "target")


class Transfer(Record):
    """What was copied.

    Attributes:
        entries: How many files, directories and links.
        bytes: Bytes of the contents of files.
        skipped: What is neither, and was left out.
    """

    entries: int
    bytes: int
    skipped: tuple[str, ...]
    __slots__ = __match_args__ = ("entries", "bytes", "skipped")


if TYPE_CHECKING:
    _Entries: TypeAlias = list[FileEntry]


class Files:
    """The files of a sandbox.

    Relative paths are taken from the working directory of the sandbox. Every verb raises a
    `FileFailedError` that is also Python's own exception for the case, such as
    `FileNotFoundError`. Each has a twin whose name ends in `_async`.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     sandbox.files.write("notes/one", "hello")
        ...     [entry.path for entry in sandbox.files.list("notes")]
        ['one']
    """

    __slots__ = ("_open",)

    def __init__(self, open: Callable[[], Native]) -> None:  # noqa: A002
        """Made by `Sandbox`."""
        self._open = open

    def read(self, path: _Path) -> bytes:
        """The content of a regular file of up to 64 MiB."""
        return wait(self._open().read(os.fspath(path)))

    async def read_async(self, path: _Path) -> bytes:
        """As `read`."""
        return await wait_async(self._open().read(os.fspath(path)))

    def write(self, path: _Path, content: bytes | str) -> None:
        """Replaces the content of a file; makes it, and the directories above it."""
        wait(self._open().write(os.fspath(path), _bytes(content), append=False))

    async def write_async(self, path: _Path, content: bytes | str) -> None:
        """As `write`."""
        await wait_async(self._open().write(os.fspath(path), _bytes(content), append=False))

    def append(self, path: _Path, content: bytes | str) -> None:
        """Adds to the content of a file; makes it, and the directories above it."""
        wait(self._open().write(os.fspath(path), _bytes(content), append=True))

    async def append_async(self, path: _Path, content: bytes | str) -> None:
        """As `append`."""
        await wait_async(self._open().write(os.fspath(path), _bytes(content), append=True))

    def stat(self, path: _Path) -> FileEntry:
        """What is known of a file."""
        return FileEntry(**wait(self._open().stat(os.fspath(path))))

    async def stat_async(self, path: _Path) -> FileEntry:
        """As `stat`."""
        return FileEntry(**await wait_async(self._open().stat(os.fspath(path))))

    def list(self, path: _Path = ".") -> _Entries:
        """The entries of a directory, by name."""
        return _entries(wait(self._open().entries(os.fspath(path))))

    async def list_async(self, path: _Path = ".") -> _Entries:
        """As `list`."""
        return _entries(await wait_async(self._open().entries(os.fspath(path))))

    def search(self, path: _Path, pattern: str) -> _Entries:
        """Everything below a directory whose name matches a pattern such as `*.py`."""
        return _entries(wait(self._open().search(os.fspath(path), pattern)))

    async def search_async(self, path: _Path, pattern: str) -> _Entries:
        """As `search`."""
        return _entries(await wait_async(self._open().search(os.fspath(path), pattern)))

    def mkdir(self, path: _Path) -> None:
        """Makes a directory, with those above it."""
        wait(self._open().mkdir(os.fspath(path)))

    async def mkdir_async(self, path: _Path) -> None:
        """As `mkdir`."""
        await wait_async(self._open().mkdir(os.fspath(path)))

    def remove(self, path: _Path) -> None:
        """Removes a file or an empty directory."""
        wait(self._open().remove(os.fspath(path), whole=False))

    async def remove_async(self, path: _Path) -> None:
        """As `remove`."""
        await wait_async(self._open().remove(os.fspath(path), whole=False))

    def remove_all(self, path: _Path) -> None:
        """Removes a file, or a directory with everything in it."""
        wait(self._open().remove(os.fspath(path), whole=True))

    async def remove_all_async(self, path: _Path) -> None:
        """As `remove_all`."""
        await wait_async(self._open().remove(os.fspath(path), whole=True))

    def rename(self, old: _Path, new: _Path) -> None:
        """Renames a file or a directory."""
        wait(self._open().rename(os.fspath(old), os.fspath(new)))

    async def rename_async(self, old: _Path, new: _Path) -> None:
        """As `rename`."""
        await wait_async(self._open().rename(os.fspath(old), os.fspath(new)))

    def upload(self, source: _Path, target: _Path) -> Transfer:
        """Copies what is in a directory of the host into one of the sandbox."""
        return Transfer(**wait(self._open().upload(os.fspath(source), os.fspath(target))))

    async def upload_async(self, source: _Path, target: _Path) -> Transfer:
        """As `upload`."""
        answer = wait_async(self._open().upload(os.fspath(source), os.fspath(target)))
        return Transfer(**await answer)

    def download(self, source: _Path, target: _Path) -> Transfer:
        """Copies what is in a directory of the sandbox into one of the host, and nowhere else."""
        return Transfer(**wait(self._open().download(os.fspath(source), os.fspath(target))))

    async def download_async(self, source: _Path, target: _Path) -> Transfer:
        """As `download`."""
        answer = wait_async(self._open().download(os.fspath(source), os.fspath(target)))
        return Transfer(**await answer)


def _entries(found: list[dict[str, Any]]) -> list[FileEntry]:
    return [FileEntry(**entry) for entry in found]


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content
