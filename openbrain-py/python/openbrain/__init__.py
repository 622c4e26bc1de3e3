r"""Runs a command, directly on the host or in a sandbox, and gives back one honest result.

    >>> import openbrain
    >>> result = openbrain.exec("echo hello", sandbox=True, timeout=60)
    >>> result.stdout
    'hello\n'
    >>> result.isolation.level
    'namespaces'

A request for a sandbox ends in a sandbox or in an exception, never on the host. A command that
fails is a value; `check=True` makes it an exception.

- `exec` and `exec_async` run a command to its end.
- `Exec` is the same as a builder, and can stream and spawn.
- `Sandbox` is a sandbox that stays open for many commands.
- `SavedChanges` are those of a command or a sandbox, to be applied to the host or discarded.
- `doctor` says what isolation a command would get right now, and what to mend.
- `openbrain.adapters` has it for Inspect, deepagents, LangChain and the OpenAI Agents SDK.
- `openbrain.errors` has what they raise: every exception is an `OpenbrainError`.
"""

from __future__ import annotations

import atexit

from . import errors
from ._openbrain import __version__, shutdown
from .background import Background, LogPart, Logs
from .changes import Applied, Change, Changes, SavedChanges
from .errors import OpenbrainError
from .files import FileEntry, Files, Found, Transfer
from .forward import Forward
from .output import Denial, Isolation, NetworkUse, Output, Resources
from .process import Ended, Event, Process, Stderr, Stdout
from .report import Check, Report, doctor, doctor_async
from .request import INHERIT, PIPE, Exec, Mount
from .sandbox import Sandbox, Volume
from .shell import Shell
from .stream import AsyncStream, Stream
from .verbs import exec, exec_async
from .watch import FileChange, FileWatch

__all__ = [
    "INHERIT",
    "PIPE",
    "Applied",
    "AsyncStream",
    "Background",
    "Change",
    "Changes",
    "Check",
    "Denial",
    "Ended",
    "Event",
    "Exec",
    "FileChange",
    "FileEntry",
    "FileWatch",
    "Files",
    "Forward",
    "Found",
    "Isolation",
    "LogPart",
    "Logs",
    "Mount",
    "NetworkUse",
    "OpenbrainError",
    "Output",
    "Process",
    "Report",
    "Resources",
    "Sandbox",
    "SavedChanges",
    "Shell",
    "Stderr",
    "Stdout",
    "Stream",
    "Transfer",
    "Volume",
    "__version__",
    "doctor",
    "doctor_async",
    "errors",
    "exec",
    "exec_async",
]

# Whatever still runs when the interpreter ends is killed before it is gone.
atexit.register(shutdown)
