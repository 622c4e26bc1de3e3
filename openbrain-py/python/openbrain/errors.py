"""What openbrain raises.

Every exception is an `OpenbrainError` and one of Python's own, so that code which knows nothing of
openbrain catches it too:

    >>> import openbrain
    >>> try:
    ...     openbrain.exec(["no-such-program"])
    ... except FileNotFoundError as error:
    ...     print(error, error.code)
    `no-such-program` was not found command_not_found

A command that fails is no exception unless `check=True` asks for one:

    >>> try:
    ...     openbrain.exec("echo no luck >&2; exit 3", check=True)
    ... except openbrain.errors.CommandFailedError as error:
    ...     print(error, error.result.exit_code)
    the command exited with code 3: no luck 3
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .output import Output

__all__ = [
    "CommandFailedError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CommandTimeoutError",
    "ConflictError",
    "ConnectionFailedError",
    "FileFailedError",
    "InternalError",
    "InvalidRequestError",
    "InvalidSettingsError",
    "OpenbrainError",
    "PolicyDeniedError",
    "ResourceExhaustedError",
    "SandboxFileExistsError",
    "SandboxFileNotFoundError",
    "SandboxFilePermissionError",
    "SandboxIsADirectoryError",
    "SandboxLostError",
    "SandboxNotADirectoryError",
    "SandboxUnavailableError",
    "WaitFailedError",
    "WaitTimeoutError",
]


class OpenbrainError(Exception):
    """Why a command could not be run, or, with `check=True`, did not succeed.

    Attributes:
        code: The stable name of the kind of failure, the same in Rust, JSON and Python.
        retryable: Whether the same request may succeed later without any change.
        remedy: What to do about it, when that is known. A traceback shows it as a hint.
    """

    code: str = "internal"
    retryable: bool = False
    remedy: str | None = None

    @property
    def result(self) -> Output | None:
        """The result of the command with the output so far, of what `check=True` raises.

        `None` for every other error: what a command said whose sandbox was lost is not kept.
        """
        return None


class InvalidRequestError(OpenbrainError, ValueError):
    """The request itself is wrong: an empty command, a bad size, a mount that does not exist.

    So is what is asked of something that the caller has no say in: a process without `PIPE` cannot
    be written to, a sandbox that was kept, or is of the process before a fork, not be used.
    """

    code = "invalid_request"


class InvalidSettingsError(OpenbrainError, ValueError):
    """A settings file or an `OPENBRAIN_*` variable is wrong, unreadable or not trusted."""

    code = "invalid_settings"


class _SystemError(OpenbrainError, OSError):
    """One that has an `errno`. Python would put the number before the message."""

    def __str__(self) -> str:
        return str(self.args[-1]) if self.args else ""


class PolicyDeniedError(_SystemError, PermissionError):
    """The settings forbid what was asked for. `errno` is `EACCES`."""

    code = "policy_denied"


class CommandNotFoundError(_SystemError, FileNotFoundError):
    """The program was not found, on the host or in the sandbox.

    `errno` is `ENOENT`, and `filename` the program of a command that is a sequence.
    """

    code = "command_not_found"


class CommandNotExecutableError(_SystemError, PermissionError):
    """The program was found but cannot be executed.

    `errno` is `EACCES`, and `filename` the program of a command that is a sequence.
    """

    code = "command_not_executable"


class SandboxUnavailableError(OpenbrainError, ConnectionError):
    """A sandbox was asked for and this machine or server cannot give it."""

    code = "sandbox_unavailable"


class SandboxLostError(OpenbrainError, ConnectionError):
    """The sandbox, its server or the way to it was lost while a command ran.

    Part of the command may have run, so that trying again is for the caller to decide.
    """

    code = "sandbox_lost"


class FileFailedError(_SystemError):
    """A file of a sandbox is missing, in the way or not permitted.

    `errno` and `filename` say more where they are known.
    """

    code = "file_failed"


class SandboxFileNotFoundError(FileFailedError, FileNotFoundError):
    """A file of a sandbox, or a directory above it, is missing."""


class SandboxFilePermissionError(FileFailedError, PermissionError):
    """A file of a sandbox is not permitted."""


class SandboxFileExistsError(FileFailedError, FileExistsError):
    """A file of a sandbox is in the way."""


class SandboxIsADirectoryError(FileFailedError, IsADirectoryError):
    """A file of a sandbox is a directory."""


class SandboxNotADirectoryError(FileFailedError, NotADirectoryError):
    """A file of a sandbox is no directory."""


class ResourceExhaustedError(OpenbrainError, OSError):
    """The machine ran out of something: processes, memory, descriptors. Later may be better."""

    code = "resource_exhausted"
    retryable = True


class ConnectionFailedError(OpenbrainError, ConnectionError):
    """A port of a sandbox, or the one of this host that leads there, is refused or silent."""

    code = "connection_failed"


class ConflictError(OpenbrainError, RuntimeError):
    """Somebody else has changed what was to be changed."""

    code = "conflict"


class WaitFailedError(OpenbrainError, RuntimeError):
    """What was waited for did not come, and will not come any more."""

    code = "wait_failed"


class WaitTimeoutError(WaitFailedError, TimeoutError):
    """What was waited for did not come in time."""


class InternalError(OpenbrainError, RuntimeError):
    """A failure of the system or of openbrain that fits no other kind."""

    code = "internal"


class CommandFailedError(OpenbrainError, RuntimeError):
    """The command ran and did not succeed, and `check=True` asked for an exception.

    It reads like `subprocess.CalledProcessError`.
    """

    code = "command_failed"

    def __init__(self, message: str, result: Output) -> None:
        super().__init__(message, result)
        self._failed = result

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def result(self) -> Output:
        """The whole result."""
        return self._failed

    @property
    def cmd(self) -> str | tuple[str, ...]:
        """The command, as it was given."""
        return self.result.args

    @property
    def returncode(self) -> int:
        """As `Output.returncode`."""
        return self.result.returncode

    @property
    def stdout(self) -> str:
        """Standard output of the command, as text."""
        return self.result.stdout

    @property
    def output(self) -> str:
        """The same as `stdout`."""
        return self.result.stdout

    @property
    def stderr(self) -> str:
        """Standard error of the command, as text."""
        return self.result.stderr


class CommandTimeoutError(CommandFailedError, TimeoutError):
    """The deadline of the command passed, and `check=True` asked for an exception."""

    code = "timed_out"


_CLASSES: tuple[type[OpenbrainError], ...] = (
    InvalidRequestError,
    InvalidSettingsError,
    PolicyDeniedError,
    CommandNotFoundError,
    CommandNotExecutableError,
    SandboxUnavailableError,
    SandboxLostError,
    FileFailedError,
    ConnectionFailedError,
    ConflictError,
    WaitFailedError,
    ResourceExhaustedError,
    InternalError,
)


# What the system would have said of a command that did not start.
_COMMANDS: dict[type[OpenbrainError], int] = {
    PolicyDeniedError: errno.EACCES,
    CommandNotFoundError: errno.ENOENT,
    CommandNotExecutableError: errno.EACCES,
}


# By the name of Rust's `std::io::ErrorKind`.
_FILES: dict[str | None, tuple[int, type[FileFailedError]]] = {
    "NotFound": (errno.ENOENT, SandboxFileNotFoundError),
    "PermissionDenied": (errno.EACCES, SandboxFilePermissionError),
    "AlreadyExists": (errno.EEXIST, SandboxFileExistsError),
    "IsADirectory": (errno.EISDIR, SandboxIsADirectoryError),
    "NotADirectory": (errno.ENOTDIR, SandboxNotADirectoryError),
    "DirectoryNotEmpty": (errno.ENOTEMPTY, FileFailedError),
    "ReadOnlyFilesystem": (errno.EROFS, FileFailedError),
    "StorageFull": (errno.ENOSPC, FileFailedError),
    "FileTooLarge": (errno.EFBIG, FileFailedError),
    "InvalidFilename": (errno.ENAMETOOLONG, FileFailedError),
}


def make(  # noqa: PLR0917
    code: str,
    message: str,
    retryable: bool,
    remedy: str | None,
    io_kind: str | None,
    filename: str | None = None,
) -> OpenbrainError:
    """The exception for an error of the library. A code of a newer library is the base itself."""
    error = _made(code, message, io_kind, filename)
    error.code, error.retryable, error.remedy = code, retryable, remedy
    if remedy:
        error.add_note(f"hint: {remedy}")
    return error


def _made(code: str, message: str, io_kind: str | None, filename: str | None) -> OpenbrainError:
    known = (kind for kind in _CLASSES if kind.code == code)
    kind = next(known, OpenbrainError)
    number = _COMMANDS.get(kind)
    if kind is FileFailedError and io_kind in _FILES:
        number, kind = _FILES[io_kind]
    if number is not None:
        # Python takes a third argument for a part of the message when it is `None`.
        return kind(number, message) if filename is None else kind(number, message, filename)
    if kind is WaitFailedError and io_kind == "TimedOut":
        kind = WaitTimeoutError
    return kind(message)


def failed(result: Output) -> CommandFailedError:
    """What `check=True` raises for a result that is no success."""
    kind = CommandTimeoutError if result.timed_out else CommandFailedError
    return kind(_describe(result), result)


def _describe(result: Output) -> str:
    if result.exit_code is not None:
        text = f"the command exited with code {result.exit_code}"
    elif result.signal is not None:
        text = f"the command was ended by signal {result.signal}"
    elif result.timed_out:
        text = "the command timed out"
    else:
        text = "the command was cancelled"
    lines = result.stderr.splitlines()
    return f"{text}: {lines[-1]}" if lines else text
