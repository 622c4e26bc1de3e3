"""Sandboxes that stay open."""

from __future__ import annotations

import os

from ._openbrain import create
from .background import Background
from .files import Files
from .output import Isolation, Output
from .record import Record
from .request import Exec, build, environment, mount_form, parts, placed, seconds, several
from .waiting import wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta
    from types import TracebackType
    from typing import Any, Self, TypeAlias

    from ._openbrain import Sandbox as Native
    from .request import Mount, Stdin

    _Path: TypeAlias = str | os.PathLike[str]
    _Command: TypeAlias = str | Sequence[_Path] | Exec

__all__ = ["Sandbox", "Volume"]


class Volume(Record):
    """A host directory inside a sandbox, by the words of the OpenSandbox SDK; as a `Mount` is.

        >>> from openbrain import Volume
        >>> Volume(container_path="/workspace", host_path="/tmp/work")
        Volume(container_path='/workspace', host_path='/tmp/work', read_only=False)

    Attributes:
        container_path: Absolute path inside the sandbox.
        host_path: Host path.
        read_only: Whether writes are refused.
    """

    container_path: str
    host_path: str
    read_only: bool
    __slots__ = __match_args__ = ("container_path", "host_path", "read_only")

    def __init__(self, *, container_path: _Path, host_path: _Path, read_only: bool = False) -> None:
        super().__init__(
            container_path=os.fspath(container_path),
            host_path=os.fspath(host_path),
            read_only=read_only,
        )


class Sandbox:
    r"""A sandbox that stays open: what one command leaves, the next one finds.

    `with` and `async with` open it and end it with everything in it; `await Sandbox.create(…)`
    opens it at once, and then `kill` or dropping it ends it. So do the end of its time and the end
    of this process. Each verb that waits has a twin whose name ends in `_async`.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     sandbox.files.write("answer.py", "print(6 * 7)")
        ...     sandbox.exec("python3 answer.py > answer; cat answer").stdout
        ...     sandbox.files.read("answer")
        '42\n'
        b'42\n'

    Args:
        image: Image of the sandbox, on an OpenSandbox server; the embedded engine has none. `None`
            for that of the settings.
        timeout: Seconds or a `timedelta` until the sandbox ends with everything in it; `None` for
            the default of the settings.
        volumes: Host directories to make visible, as the OpenSandbox SDK says it.
        mounts: The same as `openbrain.exec` says it: paths, `SRC:DST[:mode]`, `Mount`.
        expose: Host paths to make visible, read-only, at the same place.
        env: Environment variables of every command in it.
        workdir: Working directory of commands that name none; `/workspace` unless given.
        network: Whether the sandbox may reach the network; `None` as the settings say.
        allowed_ports: The only TCP ports that the sandbox may reach.
        allowed_domains: The only names that the sandbox may reach.
        allowed_hosts: Private services that the sandbox may reach beside the public ones.
        limits: Resource limits of everything in it together, by name, as in `Exec.limits`.
        name: A name for people: up to 63 letters, digits, `-`, `_` and `.`.
        labels: Labels, each part as a name is.
    """

    __slots__ = ("_facts", "_native", "_request", "files")

    files: Files
    """The files of the sandbox."""

    def __init__(
        self,
        image: str | None = None,
        *,
        timeout: float | timedelta | None = None,
        volumes: Iterable[Volume] = (),
        mounts: _Path | Mount | Iterable[_Path | Mount] = (),
        expose: _Path | Iterable[_Path] = (),
        env: Mapping[str, str] | None = None,
        workdir: _Path | None = None,
        network: bool | None = None,
        allowed_ports: Iterable[int] | None = None,
        allowed_domains: Iterable[str] | None = None,
        allowed_hosts: Iterable[str] | None = None,
        limits: Mapping[str, int | float | str] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        places: list[str | dict[str, Any]] = [_volume_form(volume) for volume in volumes]
        places += [mount_form(mount) for mount in several(mounts)]
        given: dict[str, Any] = {
            "image": image,
            "timeout": seconds(timeout),
            "mounts": places,
            "expose": [os.fspath(path) for path in several(expose)],
            "env": environment(env or {}),
            "workdir": None if workdir is None else os.fspath(workdir),
            "allow_network": network,
            "allowed_ports": None if allowed_ports is None else list(allowed_ports),
            "allowed_domains": None if allowed_domains is None else list(allowed_domains),
            "allowed_hosts": None if allowed_hosts is None else list(allowed_hosts),
            "limits": dict(limits or {}),
            "name": name,
            "labels": dict(labels or {}),
        }
        self._request = {name: value for name, value in given.items() if value is not None}
        self._native: Native | None = None
        self._facts: dict[str, Any] = {}
        self.files = Files(self._open)

    @classmethod
    async def create(
        cls,
        image: str | None = None,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
        volumes: Iterable[Volume] = (),
        mounts: _Path | Mount | Iterable[_Path | Mount] = (),
        expose: _Path | Iterable[_Path] = (),
        env: Mapping[str, str] | None = None,
        workdir: _Path | None = None,
        network: bool | None = None,
        allowed_ports: Iterable[int] | None = None,
        allowed_domains: Iterable[str] | None = None,
        allowed_hosts: Iterable[str] | None = None,
        limits: Mapping[str, int | float | str] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Self:
        r"""Opens a sandbox with these arguments.

        >>> import asyncio
        >>> from openbrain import Sandbox
        >>> async def main():
        ...     sandbox = await Sandbox.create(timeout=60, network=False)
        ...     result = await sandbox.exec_async("echo hello")
        ...     await sandbox.kill_async()
        ...     return result.stdout
        >>> asyncio.run(main())
        'hello\n'
        """
        options = {key: value for key, value in locals().items() if key != "cls"}
        sandbox = cls(**options)
        await sandbox.open_async()
        return sandbox

    def open(self) -> None:
        """Opens the sandbox, as `with` does."""
        self._opened(wait(create(self._unopened())))

    async def open_async(self) -> None:
        """As `open`, as `async with` does."""
        self._opened(await wait_async(create(self._unopened())))

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
    def warnings(self) -> tuple[str, ...]:
        """What the caller should know about it that is no error."""
        return tuple(self._fact("warnings"))

    def exec(
        self,
        command: _Command,
        *,
        timeout: float | timedelta | None = None,
        workdir: _Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """Runs a command in the sandbox to its end, with the arguments of `openbrain.exec`.

        A command that ends by itself leaves its background processes running.
        """
        exec = build(
            command, timeout=timeout, workdir=workdir, env=env, stdin=stdin, shell=shell, tty=tty
        )
        return self.command(exec).run(check=check)

    async def exec_async(
        self,
        command: _Command,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
        workdir: _Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """As `exec`. Cancelling it kills the command, not the sandbox."""
        exec = build(
            command, timeout=timeout, workdir=workdir, env=env, stdin=stdin, shell=shell, tty=tty
        )
        return await self.command(exec).run_async(check=check)

    def command(self, command: _Command) -> Exec:
        r"""The request of a command that runs in this sandbox, to `run`, `stream` or `spawn` it.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     request = sandbox.command("echo $NAME").env("NAME", "you")
        ...     [event.text for event in request.stream() if hasattr(event, "text")]
        ['you\n']
        """
        return placed(build(command), self._open())

    def start(
        self,
        command: _Command,
        *,
        timeout: float | timedelta | None = None,
        workdir: _Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
    ) -> Background:
        r"""Starts a command in the background, with the arguments of `openbrain.exec`.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     server = sandbox.start("echo ready; sleep 60")
        ...     server.wait_for_log("ready", 10)
        ...     sandbox.exec("echo beside it").stdout
        'beside it\n'
        """
        exec = build(command, timeout=timeout, workdir=workdir, env=env, stdin=stdin, shell=shell)
        request, given, args = parts(exec)
        return Background(wait(self._open().start(request, given)), args)

    async def start_async(
        self,
        command: _Command,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
        workdir: _Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
    ) -> Background:
        """As `start`."""
        exec = build(command, timeout=timeout, workdir=workdir, env=env, stdin=stdin, shell=shell)
        request, given, args = parts(exec)
        return Background(await wait_async(self._open().start(request, given)), args)

    def wait_for_port(self, port: int, timeout: float | timedelta) -> None:
        """Waits until something in the sandbox listens on a TCP port, on 127.0.0.1 or ::1.

        Raises:
            WaitTimeoutError: The time is over.
        """
        wait(self._open().wait_for_port(port, seconds(timeout) or 0))

    async def wait_for_port_async(self, port: int, timeout: float | timedelta) -> None:  # noqa: ASYNC109
        """As `wait_for_port`."""
        await wait_async(self._open().wait_for_port(port, seconds(timeout) or 0))

    def renew(self, timeout: float | timedelta) -> None:
        """Lets the sandbox end in so much time from now, instead of when it would have."""
        wait(self._open().renew(seconds(timeout) or 0))

    async def renew_async(self, timeout: float | timedelta) -> None:  # noqa: ASYNC109
        """As `renew`."""
        await wait_async(self._open().renew(seconds(timeout) or 0))

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

    def keep(self) -> None:
        """Leaves the sandbox to itself until the end of its time.

        Neither dropping it nor the end of this process ends it any more.
        """
        wait(self._open().keep())

    async def keep_async(self) -> None:
        """As `keep`."""
        await wait_async(self._open().keep())

    def __enter__(self) -> Self:
        if self._native is None:
            self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    async def __aenter__(self) -> Self:
        if self._native is None:
            await self.open_async()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill_async()

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.backend}>" if self._facts else "<Sandbox, not open>"

    def _unopened(self) -> dict[str, Any]:
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

    def _fact(self, name: str) -> Any:
        self._open()
        return self._facts[name]


def _volume_form(volume: Volume) -> dict[str, Any]:
    mode = "ro" if volume.read_only else "rw"
    return {"source": volume.host_path, "target": volume.container_path, "mode": mode}
