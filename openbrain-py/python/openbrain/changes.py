"""What commands have changed: reported, kept, and applied to the host or discarded."""

from __future__ import annotations

import os

from . import _openbrain as native  # pyright: ignore[reportPrivateUsage]
from .hints import Path, datetime, typing
from .record import Record
from .waiting import wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._openbrain import Changes as Native

    _About: typing.TypeAlias = tuple[str, list[str]]

__all__ = ["Applied", "Change", "Changes", "SavedChanges"]

_PATHS = ("path", "mount", "target", "hard_link_to")


class Change(Record):
    """One thing that has changed.

    Attributes:
        path: Where it is, as the sandbox sees it.
        mount: Target of the mount that it belongs to; `None` for what the sandbox has of its own,
            which goes with it.
        change: What has happened to it.
        kind: What it is, or was when it is deleted.
        old_kind: What it was, when that was something else.
        size: Bytes of its content, for files.
        mode: Permissions: the lower twelve bits of `st_mode`.
        old_mode: The permissions it had, when they were others.
        target: Where a symbolic link leads.
        hard_link_to: Another path of the same file: both are hard links to it.
        diff: What has changed of a text, as a unified diff with paths below the mount.
        no_diff: Why a file has no diff, though its content has changed.
    """

    path: str
    mount: str | None
    change: typing.Literal["added", "modified", "deleted"]
    kind: typing.Literal["file", "directory", "link", "fifo", "socket", "device"]
    old_kind: typing.Literal["file", "directory", "link", "fifo", "socket", "device"] | None
    size: int | None
    mode: int
    old_mode: int | None
    target: str | None
    hard_link_to: str | None
    diff: str | None
    no_diff: typing.Literal["binary", "too_large", "limit", "unreadable"] | None
    __slots__ = __match_args__ = (
        "path",
        "mount",
        "change",
        "kind",
        "old_kind",
        "size",
        "mode",
        "old_mode",
        "target",
        "hard_link_to",
        "diff",
        "no_diff",
    )

    def __init__(self, **fields: typing.Any) -> None:
        fields = {**dict.fromkeys(self.__match_args__), **fields}
        super().__init__(**fields | {name: _path(fields[name]) for name in _PATHS})

    def to_dict(self) -> dict[str, typing.Any]:
        """The entry as JSON has it: what is `None` is left out."""
        fields = {name: value for name, value in super().to_dict().items() if value is not None}
        return fields | {name: _form(fields[name]) for name in _PATHS if name in fields}


class Changes(Record):
    r"""What commands have changed, in `overlay` mounts and in what the sandbox has of its own.

    Saved, the changes of mounts can be applied to the host when the sandbox is gone.

        >>> import openbrain, pathlib
        >>> _ = pathlib.Path("old").write_text("one\n")
        >>> result = openbrain.exec(
        ...     "echo two >> old; echo new > new", sandbox=True, network=False,
        ...     mounts=".:/workspace:overlay", changes=True,
        ... )
        >>> [(change.change, change.path) for change in result.changes.entries]
        [('added', '/workspace/new'), ('modified', '/workspace/old')]
        >>> saved = result.changes.save()
        >>> saved.apply("old").paths
        ('/workspace/old',)
        >>> pathlib.Path("old").read_text()
        'one\ntwo\n'
        >>> saved.discard()

    Attributes:
        id: The name by which they are applied or discarded, once they are saved. It is the one
            thing that changes.
        entries: What has changed, each directory before what is in it; at most 100,000.
        truncated: Whether something is missing: there were more entries than that, the report took
            longer than 30 seconds, or a directory could not be read.
    """

    id: str | None
    entries: tuple[Change, ...]
    truncated: bool
    __match_args__ = ("id", "entries", "truncated")
    __slots__ = (*__match_args__, "_native")

    @classmethod
    def of(cls, fields: dict[str, typing.Any], report: typing.Any) -> Changes:
        """The report that the native module gives: its JSON fields, and itself."""
        entries = [Change(**entry) for entry in fields["entries"]]
        changes = cls(id=fields.get("id"), entries=entries, truncated=fields["truncated"])
        object.__setattr__(changes, "_native", report)
        return changes

    def save(self) -> SavedChanges | None:
        """Saves the changes of mounts, with the new contents, below the user's state directory.

        They are kept for two weeks. `None` when no mount has changed. A report that was pickled,
        or copied by another process, cannot be saved.

        Raises:
            InvalidRequestError: The report is truncated, or was not made by this process.
            FileFailedError: The contents have changed since, or cannot be copied.
        """
        return self._saved(wait(self._report().save()))

    async def save_async(self) -> SavedChanges | None:
        """As `save`. Cancelling it does not stop it half-way."""
        return self._saved(await wait_async(self._report().save()))

    def to_dict(self) -> dict[str, typing.Any]:
        """The report as JSON has it."""
        fields = super().to_dict()
        return fields if self.id is not None else {k: v for k, v in fields.items() if k != "id"}

    def _report(self) -> Native:
        report: Native | None = getattr(self, "_native", None)
        if report is None:
            from .errors import InvalidRequestError

            raise InvalidRequestError("these changes were not made by a sandbox of this process")
        return report

    def _saved(self, saved: tuple[str, _About] | None) -> SavedChanges | None:
        object.__setattr__(self, "id", None if saved is None else saved[0])
        return None if saved is None else _saved(*saved)


class Applied(Record):
    """What was applied.

    Attributes:
        paths: The changes that the host has now, by their paths in the sandbox.
        skipped: Sockets and devices, which are nothing without their process and their driver.
    """

    paths: tuple[str, ...]
    skipped: tuple[str, ...]
    __slots__ = __match_args__ = ("paths", "skipped")

    def __init__(self, *, paths: list[typing.Any], skipped: list[typing.Any]) -> None:
        super().__init__(paths=[*map(_path, paths)], skipped=[*map(_path, skipped)])


class SavedChanges:
    """Changes of mounts that were saved, until they are applied or discarded, by their name.

    `openbrain changes` shows the same. Each verb has a twin whose name ends in `_async`; cancelling
    one does not stop it half-way.

        >>> from openbrain import SavedChanges
        >>> SavedChanges.list()
        ()
    """

    __slots__ = ("_about", "id")

    id: str
    """The name."""

    def __init__(self, id: str) -> None:  # noqa: A002
        self.id = id
        self._about: _About | None = None

    @property
    def saved_at(self) -> datetime.datetime:
        """When they were saved, in UTC.

        It is read once, as `mounts` is, from a file of this host: by `list`, by `changes`, or here.

        Raises:
            InvalidRequestError: There are none of this name, or somebody else is at them.
        """
        return datetime.datetime.fromisoformat(self._known()[0])

    @property
    def mounts(self) -> tuple[str, ...]:
        """The paths on the host of the mounts that have changed.

        Raises:
            InvalidRequestError: There are none of this name, or somebody else is at them.
        """
        return tuple(self._known()[1])

    @classmethod
    def list(cls) -> tuple[SavedChanges, ...]:
        """All that there are, the oldest first."""
        return tuple(_saved(*found) for found in wait(native.changes_list()))

    @classmethod
    async def list_async(cls) -> tuple[SavedChanges, ...]:
        """As `list`."""
        return tuple(_saved(*found) for found in await wait_async(native.changes_list()))

    def changes(self) -> Changes:
        """What is left to be applied.

        Raises:
            InvalidRequestError: There are none of this name, or somebody else is at them.
        """
        return self._loaded(*wait(native.changes_load(self.id)))

    async def changes_async(self) -> Changes:
        """As `changes`."""
        return self._loaded(*await wait_async(native.changes_load(self.id)))

    def apply(self, *paths: Path) -> Applied:
        """Applies changes to the host: those at and below these paths, or all when none is named.

        A path is as the sandbox saw it, or relative to its mount. Every file of the host is
        compared first: if one has changed since, nothing is applied. What was applied is not kept
        any more.

        Raises:
            ConflictError: The host has changed one of the files.
            InvalidRequestError: A path has not changed.
            FileFailedError: A file cannot be written. What was applied until then stays applied,
                and the rest stays saved.
        """
        return Applied(**wait(native.changes_apply(self.id, _texts(paths))))

    async def apply_async(self, *paths: Path) -> Applied:
        """As `apply`."""
        return Applied(**await wait_async(native.changes_apply(self.id, _texts(paths))))

    def discard(self) -> None:
        """Removes them.

        Raises:
            InvalidRequestError: There are none of this name, or somebody else is at them.
        """
        wait(native.changes_discard(self.id))

    async def discard_async(self) -> None:
        """As `discard`."""
        await wait_async(native.changes_discard(self.id))

    def _loaded(self, about: _About, changes: dict[str, typing.Any]) -> Changes:
        self._about = about
        return Changes.of(changes, None)

    def _known(self) -> _About:
        if self._about is None:
            self._about = wait(native.changes_load(self.id))[0]
        return self._about

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, SavedChanges) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"SavedChanges({self.id!r})"


def _saved(id: str, about: _About | None) -> SavedChanges:  # noqa: A002
    saved = SavedChanges(id)
    saved._about = about  # pyright: ignore[reportPrivateUsage]
    return saved


def _texts(paths: tuple[Path, ...]) -> list[str]:
    return [os.fspath(path) for path in paths]


def _path(form: typing.Any) -> str | None:
    """A path that JSON has as a text, or as base64 when it is no text."""
    if form is None or isinstance(form, str):
        return form
    import base64

    return os.fsdecode(base64.b64decode(form["base64"]))


def _form(path: str) -> str | dict[str, str]:
    try:
        path.encode()
    except UnicodeEncodeError:
        import base64

        return {"base64": base64.b64encode(os.fsencode(path)).decode()}
    return path
