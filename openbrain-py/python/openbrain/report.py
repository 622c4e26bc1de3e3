"""What isolation a command would get right now, and what to mend."""

from __future__ import annotations

from . import _openbrain as native  # pyright: ignore[reportPrivateUsage]
from .hints import typing
from .output import Isolation
from .record import Record
from .waiting import wait, wait_async

__all__ = ["Check", "Report", "doctor", "doctor_async"]


class Check(Record):
    """One thing that was looked at.

    Attributes:
        id: Stable name.
        status: As it should be; a layer is missing, without which sandboxes work and say so; or
            sandboxes cannot be had.
        summary: What was found.
        remedy: What mends it.
    """

    id: str
    status: typing.Literal["ok", "warning", "failed"]
    summary: str
    remedy: str | None
    __slots__ = __match_args__ = ("id", "status", "summary", "remedy")


class Report(Record):
    """The state of this machine, and of the OpenSandbox server if the settings name one.

    Attributes:
        ok: Whether a sandboxed command would run.
        checks: What was looked at.
        isolation: What a sandboxed command would get right now, proven by running one.
    """

    ok: bool
    checks: tuple[Check, ...]
    isolation: Isolation | None
    __slots__ = __match_args__ = ("ok", "checks", "isolation")


def doctor() -> Report:
    """Looks at this machine, or at the OpenSandbox server, and runs one sandboxed command.

    >>> import openbrain
    >>> openbrain.doctor().ok
    True
    """
    return _report(wait(native.doctor()))


async def doctor_async() -> Report:
    """As `doctor`. Cancelling it does not stop it half-way."""
    return _report(await wait_async(native.doctor()))


def _report(fields: dict[str, typing.Any]) -> Report:
    isolation = fields["isolation"]
    return Report(
        ok=fields["ok"],
        checks=[Check(**check) for check in fields["checks"]],
        isolation=None if isolation is None else Isolation(**isolation),
    )
