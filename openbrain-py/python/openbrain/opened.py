"""The life of a sandbox that stays open."""

from __future__ import annotations

from ._openbrain import create
from .files import Files
from .hints import datetime, typing
from .output import Isolation
from .waiting import span, wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ._openbrain import Sandbox as Native


class Opened:
    """What is known of a sandbox, and when it ends."""

    __slots__ = ("_facts", "_native", "_request")

    def __init__(self, request: dict[str, typing.Any]) -> None:
        self._request = request
        self._native: Native | None = None
        self._facts: dict[str, typing.Any] = {}

    def open(self) -> None:
        """Opens the sandbox, as `with` does."""
        self._opened(wait(create(self._unopened())))

    async def open_async(self) -> None:
        """As `open`, as `async with` does."""
        self._opened(await wait_async(create(self._unopened())))

    @property
    def files(self) -> Files:
        """The files of the sandbox."""
        return Files(self._open)

    @property
    def id(self) -> str:
        """Name of the sandbox, unique and unguessable."""
        fact: str = self._fact("id")
        return fact

    @property
    def name(self) -> str | None:
        """The name for people, when it was given one."""
        fact: str | None = self._fact("name")
        return fact

    @property
    def labels(self) -> dict[str, str]:
        """The labels that it was given."""
        return dict(self._fact("labels"))

    @property
    def backend(self) -> str:
        """Where it is: `embedded` or `opensandbox`."""
        fact: str = self._fact("backend")
        return fact

    @property
    def isolation(self) -> Isolation:
        """What is enforced around everything in it."""
        return Isolation(**self._fact("isolation"))

    @property
    def expires_at(self) -> datetime.datetime:
        """When its time is over, by the clock of this machine, in UTC."""
        return datetime.datetime.fromtimestamp(self._open().expires_at(), datetime.UTC)

    @property
    def command_timeout(self) -> float:
        """Seconds until a command in it that names no timeout is killed."""
        fact: float = self._fact("command_timeout")
        return fact

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the caller should know about it that is no error."""
        return tuple(self._fact("warnings"))

    def renew(self, timeout: float | datetime.timedelta) -> None:
        """Lets the sandbox end in so much time from now, instead of when it would have."""
        wait(self._open().renew(span(timeout)))

    async def renew_async(self, timeout: float | datetime.timedelta) -> None:  # noqa: ASYNC109
        """As `renew`."""
        await wait_async(self._open().renew(span(timeout)))

    def pause(self) -> None:
        """Stops every process in the sandbox. Its time goes on, and so do deadlines."""
        wait(self._open().pause())

    async def pause_async(self) -> None:
        """As `pause`."""
        await wait_async(self._open().pause())

    def resume(self) -> None:
        """Lets every process in the sandbox go on."""
        wait(self._open().resume())

    async def resume_async(self) -> None:
        """As `resume`."""
        await wait_async(self._open().resume())

    def kill(self) -> None:
        """Ends the sandbox with everything in it. One that has ended already is as good."""
        wait(self._open().kill())

    async def kill_async(self) -> None:
        """As `kill`."""
        await wait_async(self._open().kill())

    def wait_ended(self) -> typing.Literal["expired", "killed", "died"]:
        """Waits until the sandbox has ended, and says why; `died` is from outside or from within.

        The end of one on a server that somebody else deletes shows within 100 s.
        """
        return wait(self._open().wait_ended())

    async def wait_ended_async(self) -> typing.Literal["expired", "killed", "died"]:
        """As `wait_ended`. Cancelling it leaves the sandbox open."""
        return await wait_async(self._open().wait_ended())

    def keep(self) -> None:
        """Leaves the sandbox to itself until the end of its time.

        Neither leaving the block, nor dropping it, nor the end of this process ends it any more;
        nobody here has a say in it either. Refused, and of no effect, while calls are under way.
        """
        wait(self._open().keep())

    async def keep_async(self) -> None:
        """As `keep`."""
        await wait_async(self._open().keep())

    def __enter__(self) -> typing.Self:
        if self._native is None:
            self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open().is_held():
            self.kill()

    async def __aenter__(self) -> typing.Self:
        if self._native is None:
            await self.open_async()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open().is_held():
            await self.kill_async()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.backend}>" if self._facts else "<Sandbox, not open>"

    def _unopened(self) -> dict[str, typing.Any]:
        if self._native is not None:
            raise RuntimeError("the sandbox is open already")
        return self._request

    def _opened(self, native: Native) -> None:
        self._native = native
        self._facts = native.facts()

    def _open(self) -> Native:
        if self._native is None:
            raise RuntimeError("the sandbox is not open; use `with`, or `await Sandbox.create(…)`")
        return self._native

    def _fact(self, name: str) -> typing.Any:
        self._open()
        return self._facts[name]
