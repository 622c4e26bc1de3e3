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
- `openbrain.adapters` has it for Inspect, deepagents, LangChain and the OpenAI Agents SDK.
- `openbrain.errors` has what they raise: every exception is an `OpenbrainError`.
"""

from __future__ import annotations

import atexit

from . import errors
from ._openbrain import __version__, shutdown
from .background import Background, LogPart, Logs
from .errors import OpenbrainError
from .files import FileEntry, Files, Transfer
from .output import Denial, Isolation, NetworkUse, Output, Resources
from .process import AsyncStream, Ended, Event, Process, Stderr, Stdout, Stream
from .request import INHERIT, PIPE, Exec, Mount, exec, exec_async
from .sandbox import Sandbox, Volume

__all__ = [
    "INHERIT",
    "PIPE",
    "AsyncStream",
    "Background",
    "Denial",
    "Ended",
    "Event",
    "Exec",
    "FileEntry",
    "Files",
    "Isolation",
    "LogPart",
    "Logs",
    "Mount",
    "NetworkUse",
    "OpenbrainError",
    "Output",
    "Process",
    "Resources",
    "Sandbox",
    "Stderr",
    "Stdout",
    "Stream",
    "Transfer",
    "Volume",
    "__version__",
    "errors",
    "exec",
    "exec_async",
]

# Whatever still runs when the interpreter ends is killed before it is gone.
atexit.register(shutdown)
