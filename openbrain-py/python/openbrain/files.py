"""The files of a sandbox that stays open."""

from __future__ import annotations

import os
from collections.abc import Callable

from .content import content as as_bytes
from .hints import Bytes, Path, typing
from .record import Record
from .waiting import wait, wait_async
from .watch import FileWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._openbrain import Files as Native
    from ._openbrain import Sandbox

__all__ = ["FileEntry", "Files", "Found", "Transfer"]


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
    kind: typing.Literal["file", "directory", "link", "other"]
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


class Found(Record):
    """Entries that were found.

    Attributes:
        entries: The entries, by path.
        truncated: Whether there are more.
    """

    entries: tuple[FileEntry, ...]
    truncated: bool
    __slots__ = __match_args__ = ("entries", "truncated")


# `Files` has a verb of the name `list`.
_Entries = list[FileEntry]


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

    def __init__(self, open: Callable[[], Sandbox]) -> None:  # noqa: A002
        """Made by `Sandbox`."""
        self._open = open

    def read(self, path: Path, *, offset: int = 0, limit: int | None = None) -> bytes:
        """The content of a regular file.

        Args:
            path: The file.
            offset: The byte to begin with. Beyond the end there is nothing to read.
            limit: The most bytes to read; without one and an offset, a file of up to 64 MiB.
        """
        return wait(self._files().read(os.fspath(path), offset, limit))

    async def read_async(self, path: Path, *, offset: int = 0, limit: int | None = None) -> bytes:
        """As `read`."""
        return await wait_async(self._files().read(os.fspath(path), offset, limit))

    def write(self, path: Path, content: Bytes | str) -> None:
        """Replaces the content of a file; makes it, and the directories above it."""
        wait(self._files().write(os.fspath(path), as_bytes(content), append=False))

    async def write_async(self, path: Path, content: Bytes | str) -> None:
        """As `write`."""
        await wait_async(self._files().write(os.fspath(path), as_bytes(content), append=False))

    def append(self, path: Path, content: Bytes | str) -> None:
        """Adds to the content of a file; makes it, and the directories above it."""
        wait(self._files().write(os.fspath(path), as_bytes(content), append=True))

    async def append_async(self, path: Path, content: Bytes | str) -> None:
        """As `append`."""
        await wait_async(self._files().write(os.fspath(path), as_bytes(content), append=True))

    def stat(self, path: Path) -> FileEntry:
        """What is known of a file."""
        return FileEntry(**wait(self._files().stat(os.fspath(path))))

    async def stat_async(self, path: Path) -> FileEntry:
        """As `stat`."""
        return FileEntry(**await wait_async(self._files().stat(os.fspath(path))))

    def list(self, path: Path = ".") -> _Entries:
        """The entries of a directory, by name."""
        return _entries(wait(self._files().entries(os.fspath(path))))

    async def list_async(self, path: Path = ".") -> _Entries:
        """As `list`."""
        return _entries(await wait_async(self._files().entries(os.fspath(path))))

    def search(self, path: Path, pattern: str) -> _Entries:
        """Everything below a directory whose name matches a pattern such as `*.py`."""
        return _entries(wait(self._files().search(os.fspath(path), pattern)))

    async def search_async(self, path: Path, pattern: str) -> _Entries:
        """As `search`."""
        return _entries(await wait_async(self._files().search(os.fspath(path), pattern)))

    def find(self, path: Path = ".", pattern: str | None = None, *, limit: int = 1000) -> Found:
        """At most so many entries of a directory, or, with a pattern, of everything below it.

        Which of them, when there are more, is up to the sandbox; up to 4 MiB of names.
        """
        return _found(wait(self._files().find(os.fspath(path), pattern, limit)))

    async def find_async(
        self, path: Path = ".", pattern: str | None = None, *, limit: int = 1000
    ) -> Found:
        """As `find`."""
        return _found(await wait_async(self._files().find(os.fspath(path), pattern, limit)))

    def watch(self, path: Path = ".") -> FileWatch:
        """Watches a directory with everything below it: what happens from the return of it on.

        Up to 4096 directories. A watch counts as a command of the sandbox.
        """
        return FileWatch(wait(self._files().watch(os.fspath(path))))

    async def watch_async(self, path: Path = ".") -> FileWatch:
        """As `watch`."""
        return FileWatch(await wait_async(self._files().watch(os.fspath(path))))

    def mkdir(self, path: Path) -> None:
        """Makes a directory, with those above it."""
        wait(self._files().mkdir(os.fspath(path)))

    async def mkdir_async(self, path: Path) -> None:
        """As `mkdir`."""
        await wait_async(self._files().mkdir(os.fspath(path)))

    def remove(self, path: Path) -> None:
        """Removes a file or an empty directory."""
        wait(self._files().remove(os.fspath(path), whole=False))

    async def remove_async(self, path: Path) -> None:
        """As `remove`."""
        await wait_async(self._files().remove(os.fspath(path), whole=False))

    def remove_all(self, path: Path) -> None:
        """Removes a file, or a directory with everything in it."""
        wait(self._files().remove(os.fspath(path), whole=True))

    async def remove_all_async(self, path: Path) -> None:
        """As `remove_all`."""
        await wait_async(self._files().remove(os.fspath(path), whole=True))

    def rename(self, old: Path, new: Path) -> None:
        """Renames a file or a directory."""
        wait(self._files().rename(os.fspath(old), os.fspath(new)))

    async def rename_async(self, old: Path, new: Path) -> None:
        """As `rename`."""
        await wait_async(self._files().rename(os.fspath(old), os.fspath(new)))

    def upload(self, source: Path, target: Path) -> Transfer:
        """Copies what is in a directory of the host into one of the sandbox.

        An exception has a `filename` when the source is missing: other failures may be of either
        side, and the text says of which.
        """
        return Transfer(**wait(self._files().upload(os.fspath(source), os.fspath(target))))

    async def upload_async(self, source: Path, target: Path) -> Transfer:
        """As `upload`."""
        answer = wait_async(self._files().upload(os.fspath(source), os.fspath(target)))
        return Transfer(**await answer)

    def download(self, source: Path, target: Path) -> Transfer:
        """Copies what is in a directory of the sandbox into one of the host, and nowhere else.

        An exception has a `filename` as that of `upload`.
        """
        return Transfer(**wait(self._files().download(os.fspath(source), os.fspath(target))))

    async def download_async(self, source: Path, target: Path) -> Transfer:
        """As `download`."""
        answer = wait_async(self._files().download(os.fspath(source), os.fspath(target)))
        return Transfer(**await answer)

    def upload_tar(self, target: Path, archive: bytes | Path) -> Transfer:
        """Makes below a directory of the sandbox what a tar archive has, which is not compressed.

        Nothing is written beside the directory, whatever the archive says. Pipes, devices, owners
        and set-user-ID bits are left out.

        Args:
            target: The directory, which is made when it is missing.
            archive: The archive itself, or the path of a file of the host.
        """
        return Transfer(**wait(self._files().upload_tar(os.fspath(target), *_archive(archive))))

    async def upload_tar_async(self, target: Path, archive: bytes | Path) -> Transfer:
        """As `upload_tar`."""
        answer = wait_async(self._files().upload_tar(os.fspath(target), *_archive(archive)))
        return Transfer(**await answer)

    def download_tar(self, source: Path, archive: Path) -> int:
        """Writes everything below a directory of the sandbox into a tar archive on the host.

        What is in it was made in the sandbox: unpack it where a name or a link leads nowhere, or
        use `download`.

        Args:
            source: The directory.
            archive: Path of a file of the host, which is made, or replaced when all is there.

        Returns:
            The length of the archive.
        """
        return wait(self._files().download_tar(os.fspath(source), os.fspath(archive)))

    async def download_tar_async(self, source: Path, archive: Path) -> int:
        """As `download_tar`."""
        return await wait_async(self._files().download_tar(os.fspath(source), os.fspath(archive)))

    def _files(self) -> Native:
        return self._open().files()


def _found(answer: tuple[list[dict[str, typing.Any]], bool]) -> Found:
    found, truncated = answer
    return Found(entries=_entries(found), truncated=truncated)


def _archive(archive: bytes | Path) -> tuple[bytes | None, str]:
    return (archive, "") if isinstance(archive, bytes) else (None, os.fspath(archive))


def _entries(found: list[dict[str, typing.Any]]) -> list[FileEntry]:
    return [FileEntry(**entry) for entry in found]
