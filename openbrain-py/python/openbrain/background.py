"""Commands in the background of a sandbox that stays open."""

from __future__ import annotations

from .hints import datetime, typing
from .output import Output
from .record import Record
from .waiting import seconds, wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._openbrain import Background as Native

__all__ = ["Background", "LogPart", "Logs"]


class LogPart(Record):
    """A part of one stream of a command.

    Attributes:
        offset: Where it begins, in bytes from the beginning of the stream: later than was asked for
            when what was there is not kept.
        data: The bytes, at most 1 MiB.
    """

    offset: int
    data: bytes
    __slots__ = __match_args__ = ("offset", "data")

    @property
    def text(self) -> str:
        """The bytes as text; invalid UTF-8 is replaced, also where a character was cut."""
        return self.data.decode("utf-8", "replace")

    @property
    def end(self) -> int:
        """Where the next part begins."""
        return self.offset + len(self.data)


class Logs(Record):
    """A part of what a command has written.

    Attributes:
        stdout: Of standard output.
        stderr: Of standard error.
        ended: Whether the command has ended and this is all that it wrote.
    """

    stdout: LogPart
    stderr: LogPart
    ended: bool
    __slots__ = __match_args__ = ("stdout", "stderr", "ended")


class Background:
    r"""A command in the background of a sandbox.

    It goes on whether or not somebody reads what it writes: the beginning and the end of each
    stream are kept, as much as the output limit says. It ends with its sandbox, by its deadline, or
    when it is told to; dropping this value, and giving a wait up, leave it running. Each verb that
    waits has a twin whose name ends in `_async`.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     server = sandbox.start("echo ready; sleep 60")
        ...     server.wait_for_log("ready", 10)
        ...     server.logs().stdout.text, server.status
        ...     server.cancel()
        ...     server.wait().status
        ('ready\n', None)
        'cancelled'
    """

    __slots__ = ("_about", "_args", "_native")

    def __init__(self, native: Native, args: str | tuple[str, ...]) -> None:
        """Made by `Sandbox.start`."""
        self._native = native
        self._args = args
        self._about: dict[str, typing.Any] = native.about()

    @property
    def exec_id(self) -> str:
        """Name of this execution, unique and unguessable."""
        exec_id: str = self._about["exec_id"]
        return exec_id

    @property
    def started_at(self) -> str:
        """When the command was started, RFC 3339."""
        started_at: str = self._about["started_at"]
        return started_at

    @property
    def status(self) -> typing.Literal["exited", "signaled", "timed_out", "cancelled"] | None:
        """How the command ended; `None` while it runs, and where that is not known."""
        status: typing.Literal["exited", "signaled", "timed_out", "cancelled"] | None
        status = self._native.about()["status"]
        return status

    @property
    def has_ended(self) -> bool:
        """Whether the command has ended, or nobody can learn of its end any more."""
        has_ended: bool = self._native.about()["has_ended"]
        return has_ended

    @property
    def error(self) -> str | None:
        """Why it is not known how the command ended, when it is not."""
        error: str | None = self._native.about()["error"]
        return error

    def logs(self, stdout: int = 0, stderr: int = 0) -> Logs:
        """What it has written.

        Args:
            stdout: Bytes of standard output to leave out: `logs.stdout.end` of what was read.
            stderr: The same for standard error.
        """
        return _logs(self._native.logs(stdout, stderr))

    def next_logs(self, stdout: int = 0, stderr: int = 0) -> Logs:
        """As `logs`, but waits until there is something, or nothing will come any more."""
        return _logs(wait(self._native.next_logs(stdout, stderr)))

    async def next_logs_async(self, stdout: int = 0, stderr: int = 0) -> Logs:
        """As `next_logs`."""
        return _logs(await wait_async(self._native.next_logs(stdout, stderr)))

    def wait_for_log(self, text: str, timeout: float | datetime.timedelta | None = None) -> None:
        """Waits until one of its streams has this text, from the beginning on.

        Args:
            text: Up to 4096 bytes.
            timeout: Seconds or a `timedelta` to wait at most.

        Raises:
            WaitTimeoutError: The time is over.
            WaitFailedError: The command has ended without it.
        """
        wait(self._native.wait_for_log(text, seconds(timeout)))

    async def wait_for_log_async(
        self,
        text: str,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
    ) -> None:
        """As `wait_for_log`."""
        await wait_async(self._native.wait_for_log(text, seconds(timeout)))

    def wait(
        self, timeout: float | datetime.timedelta | None = None, *, check: bool = False
    ) -> Output:
        """Waits for the end; the result has the beginning and the end of the output.

        Args:
            timeout: Seconds or a `timedelta` to wait at most. The command runs on when they are
                over.
            check: Raise unless the command succeeds.

        Raises:
            WaitTimeoutError: The time is over.
        """
        return self._output(wait(self._native.wait(seconds(timeout))), check)

    async def wait_async(
        self,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        *,
        check: bool = False,
    ) -> Output:
        """As `wait`. Cancelling it leaves the command running."""
        return self._output(await wait_async(self._native.wait(seconds(timeout))), check)

    def signal(self, signal: int) -> None:
        """Sends a signal to the command's process group."""
        self._native.signal(signal)

    def cancel(self) -> None:
        """Ends the command: TERM, half a second later KILL to every process."""
        self._native.cancel()

    def __repr__(self) -> str:
        return f"<Background {self.exec_id} {self.status or 'running'}>"

    def _output(self, answer: tuple[dict[str, typing.Any], bytes, bytes], check: bool) -> Output:
        output = Output.of(self._args, answer)
        return output.check() if check else output


def _logs(answer: tuple[tuple[int, bytes], tuple[int, bytes], bool]) -> Logs:
    stdout, stderr, ended = answer
    parts = [LogPart(offset=offset, data=data) for offset, data in (stdout, stderr)]
    return Logs(stdout=parts[0], stderr=parts[1], ended=ended)
