"""The result of a command."""

from __future__ import annotations

from collections.abc import Mapping

from .changes import Changes
from .errors import failed
from .hints import typing
from .record import Record, short

__all__ = ["Denial", "Isolation", "NetworkUse", "Output", "Resources"]


class Isolation(Record):
    """What was really enforced around a command, as measured or set up, not as asked for.

    Attributes:
        level: `none` on the host, `namespaces` in a sandbox of this machine, `container` on an
            OpenSandbox server.
        namespaces: Linux namespaces that are the command's own.
        filesystem: What the command sees of the file system.
        network: What the command reaches of the network.
        layers: Further walls inside: `no_new_privs`, `seccomp`, `landlock:6` (its ABI), …
        limits: How each limit is enforced: `memory` by `cgroup v2`, `pids` by `rlimit`, and so on.
    """

    level: typing.Literal["none", "namespaces", "container"]
    namespaces: tuple[str, ...]
    filesystem: str
    network: str
    layers: tuple[str, ...]
    limits: Mapping[str, str]
    __slots__ = __match_args__ = (
        "level",
        "namespaces",
        "filesystem",
        "network",
        "layers",
        "limits",
    )


class NetworkUse(Record):
    """What a command exchanged with one destination.

    Attributes:
        host: The name that the command asked for, or the address.
        port: The TCP port.
        connections: Connections that the command opened.
        failed: Those of them that could not be made: no answer, or refused.
        bytes_sent: Bytes from the command.
        bytes_received: Bytes to the command.
    """

    host: str
    port: int
    connections: int
    failed: int
    bytes_sent: int
    bytes_received: int
    __slots__ = __match_args__ = (
        "host",
        "port",
        "connections",
        "failed",
        "bytes_sent",
        "bytes_received",
    )


class Resources(Record):
    """What a command used; `None` where nobody counted.

    Attributes:
        cpu_ms: Processor time of all its processes that ended, user and system.
        max_rss_bytes: Largest resident set of any one process.
        memory_peak_bytes: Peak memory of the sandbox, where a cgroup counts it.
        oom_killed: Whether the memory limit killed it.
        network: What it reached of the network, in the order of the first connections.
    """

    cpu_ms: int | None
    max_rss_bytes: int | None
    memory_peak_bytes: int | None
    oom_killed: bool
    network: tuple[NetworkUse, ...]
    __slots__ = __match_args__ = (
        "cpu_ms",
        "max_rss_bytes",
        "memory_peak_bytes",
        "oom_killed",
        "network",
    )

    def __init__(self, *, network: list[dict[str, typing.Any]], **fields: typing.Any) -> None:
        super().__init__(network=[NetworkUse(**use) for use in network], **fields)


class Denial(Record):
    """Something that the sandbox refused.

    Attributes:
        what: What was asked for: `host:port`, a path.
        host: The host that was to be reached: a name or an address.
        port: The port that was to be reached.
        reason: Why it was refused.
        remedy: The setting that would allow it, if one does.
        count: How many times.
    """

    what: str
    host: str | None
    port: int | None
    reason: str
    remedy: str | None
    count: int
    __slots__ = __match_args__ = ("what", "host", "port", "reason", "remedy", "count")


class Output(Record):
    r"""The result of a command: what it printed, how it ended, and what was enforced around it.

    A non-zero exit, a timeout and cut output are values. It reads like
    `subprocess.CompletedProcess`: it has `args`, `returncode`, `stdout`, `stderr` and
    `check_returncode()`. It cannot be changed, and it can be pickled.

        >>> import openbrain
        >>> result = openbrain.exec("echo one; echo two >&2; exit 3")
        >>> result.status, result.exit_code, result.success
        ('exited', 3, False)
        >>> result.stdout, result.stderr
        ('one\n', 'two\n')
        >>> result
        Output('echo one; echo two >&2; exit 3', exit_code=3, stdout='one\n', stderr='two\n')

    Attributes:
        args: The command, as it was given.
        status: How the command ended.
        exit_code: The exit code; `None` unless the command ended by itself.
        signal: The signal that ended the command, if one did.
        success: Whether the command ended by itself with exit code 0.
        timed_out: Whether the deadline ended the command.
        stdout_bytes: What was kept of standard output, exactly.
        stderr_bytes: What was kept of standard error, exactly.
        stdout_truncated: Whether the middle of standard output is missing.
        stderr_truncated: Whether the middle of standard error is missing.
        stdout_total: How many bytes of standard output there were.
        stderr_total: How many bytes of standard error there were.
        duration_ms: From start to end.
        started_at: When the command was started, RFC 3339.
        backend: Where it ran.
        sandbox_id: The sandbox it ran in, where sandboxes have names.
        start: Whether its sandbox was made for it (`cold`) or was ready (`warm`), of the embedded
            engine; `None` for a command that had no sandbox of its own.
        exec_id: Name of this execution, unique and unguessable.
        isolation: What was really enforced.
        resources: What the command used, as far as the backend knows.
        denials: What the sandbox refused, as far as it knows.
        changes: What the command has changed; `None` unless that was asked for.
        warnings: What the caller should know that is no failure.
    """

    args: str | tuple[str, ...]
    status: typing.Literal["exited", "signaled", "timed_out", "cancelled"]
    exit_code: int | None
    signal: int | None
    success: bool
    timed_out: bool
    stdout_bytes: bytes
    stderr_bytes: bytes
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_total: int
    stderr_total: int
    duration_ms: int
    started_at: str
    backend: typing.Literal["direct", "embedded", "opensandbox"]
    sandbox_id: str | None
    start: typing.Literal["cold", "warm"] | None
    exec_id: str
    isolation: Isolation
    resources: Resources
    denials: tuple[Denial, ...]
    changes: Changes | None
    warnings: tuple[str, ...]
    __slots__ = __match_args__ = (
        "args",
        "status",
        "exit_code",
        "signal",
        "success",
        "timed_out",
        "stdout_bytes",
        "stderr_bytes",
        "stdout_truncated",
        "stderr_truncated",
        "stdout_total",
        "stderr_total",
        "duration_ms",
        "started_at",
        "backend",
        "sandbox_id",
        "start",
        "exec_id",
        "isolation",
        "resources",
        "denials",
        "changes",
        "warnings",
    )

    @classmethod
    def of(
        cls, args: str | tuple[str, ...], answer: tuple[dict[str, typing.Any], bytes, bytes]
    ) -> Output:
        """The result that the native module gives: its JSON fields, and the bytes of its streams.

        In JSON `stdout_bytes` is the number of bytes that there were; in Python it is the bytes.
        """
        fields, stdout, stderr = answer
        changes = fields.get("changes")
        plain = {name: value for name, value in fields.items() if name not in _APART}
        return cls(
            **plain,
            args=args,
            changes=None if changes is None else Changes.of(*changes),
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            stdout_total=fields["stdout_bytes"],
            stderr_total=fields["stderr_bytes"],
        )

    def __init__(self, **fields: typing.Any) -> None:
        fields["isolation"] = Isolation(**fields["isolation"])
        fields["resources"] = Resources(**fields["resources"])
        fields["denials"] = [Denial(**denial) for denial in fields["denials"]]
        super().__init__(**fields)

    @property
    def stdout(self) -> str:
        """Standard output as text; invalid UTF-8 is replaced."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; invalid UTF-8 is replaced."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def truncated(self) -> bool:
        """Whether anything of the output is missing."""
        return self.stdout_truncated or self.stderr_truncated

    @property
    def returncode(self) -> int:
        """As in `subprocess`: the exit code, or the negative number of the signal.

        A command that a timeout or a cancellation ended has -9, the signal that ends all of it.
        """
        if self.exit_code is not None:
            return self.exit_code
        return -9 if self.signal is None else -self.signal

    def check_returncode(self) -> None:
        """Raises `CommandFailedError`, with this result, unless the command succeeded."""
        self.check()

    def check(self) -> Output:
        """The result itself when the command succeeded.

        Raises:
            CommandTimeoutError: The deadline ended the command.
            CommandFailedError: The command ended in any other way but success.
        """
        if not self.success:
            raise failed(self)
        return self

    def __repr__(self) -> str:
        end = {"exited": f"exit_code={self.exit_code}", "signaled": f"signal={self.signal}"}
        parts = [short(self.args), end.get(self.status, f"status={self.status!r}")]
        if self.stdout_bytes:
            parts.append(f"stdout={short(self.stdout)}")
        if self.stderr_bytes:
            parts.append(f"stderr={short(self.stderr)}")
        return f"Output({', '.join(parts)})"

    def to_dict(self) -> dict[str, typing.Any]:
        r"""The result as the JSON of every edge has it, with `args` added.

        There `stdout` and `stderr` are texts, `stdout_bytes` and `stderr_bytes` the numbers of
        bytes that there were, and output that is no UTF-8 is also there in base64.

            >>> import openbrain
            >>> openbrain.exec("echo hi").to_dict()["stdout"]
            'hi\n'
        """
        fields = super().to_dict()
        for stream in ("stdout", "stderr"):
            fields[f"{stream}_bytes"] = fields.pop(f"{stream}_total")
            fields[stream] = getattr(self, stream)
            exact: bytes = getattr(self, f"{stream}_bytes")
            if not _is_utf8(exact):
                fields[f"{stream}_base64"] = _base64(exact)
        if self.changes is None:
            del fields["changes"]
        return fields

    def to_json(self) -> str:
        """`to_dict()` as JSON text."""
        import json

        return json.dumps(self.to_dict())


# What is not taken from the JSON fields as it is.
_APART = frozenset(
    (
        "changes",
        *(
            f"{stream}{form}"
            for stream in ("stdout", "stderr")
            for form in ("", "_base64", "_bytes")
        ),
    )
)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()
