"""Sandboxes that stay open."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from .background import Background
from .changes import Changes
from .forward import Forward
from .hints import Bytes, Limits, Path, Words, datetime, typing
from .opened import Opened
from .output import Output
from .record import Record
from .request import Exec, Mount, Stdin, environment, listed, mount_form, parts, placed, several
from .shell import Shell
from .verbs import build
from .waiting import seconds, span, wait, wait_async

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

    def __init__(self, *, container_path: Path, host_path: Path, read_only: bool = False) -> None:
        super().__init__(
            container_path=os.fspath(container_path),
            host_path=os.fspath(host_path),
            read_only=read_only,
        )


class Sandbox(Opened):
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
        rootfs: Directory of this host with an unpacked image, whose system the sandbox has in place
            of that of this host; of the embedded engine. Nothing is ever written to it.
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

    __slots__ = ()

    def __init__(
        self,
        image: str | None = None,
        *,
        rootfs: Path | None = None,
        timeout: float | datetime.timedelta | None = None,
        volumes: Iterable[Volume] = (),
        mounts: Path | Mount | Iterable[Path | Mount] = (),
        expose: Path | Iterable[Path] = (),
        env: Mapping[str, str] | None = None,
        workdir: Path | None = None,
        network: bool | None = None,
        allowed_ports: Iterable[int] | None = None,
        allowed_domains: Iterable[str] | None = None,
        allowed_hosts: Iterable[str] | None = None,
        limits: Limits | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        places: list[str | dict[str, typing.Any]] = [_volume_form(volume) for volume in volumes]
        places += [mount_form(mount) for mount in several(mounts)]
        given: dict[str, typing.Any] = {
            "image": image,
            "rootfs": None if rootfs is None else os.fspath(rootfs),
            "timeout": seconds(timeout),
            "mounts": places,
            "expose": [os.fspath(path) for path in several(expose)],
            "env": environment(env or {}),
            "workdir": None if workdir is None else os.fspath(workdir),
            "allow_network": network,
            "allowed_ports": listed(allowed_ports),
            "allowed_domains": listed(allowed_domains),
            "allowed_hosts": listed(allowed_hosts),
            "limits": dict(limits or {}),
            "name": name,
            "labels": dict(labels or {}),
        }
        super().__init__({name: value for name, value in given.items() if value is not None})

    @classmethod
    async def create(
        cls,
        image: str | None = None,
        *,
        rootfs: Path | None = None,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        volumes: Iterable[Volume] = (),
        mounts: Path | Mount | Iterable[Path | Mount] = (),
        expose: Path | Iterable[Path] = (),
        env: Mapping[str, str] | None = None,
        workdir: Path | None = None,
        network: bool | None = None,
        allowed_ports: Iterable[int] | None = None,
        allowed_domains: Iterable[str] | None = None,
        allowed_hosts: Iterable[str] | None = None,
        limits: Limits | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> typing.Self:
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

    def exec(
        self,
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        limits: Limits | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """Runs a command in the sandbox to its end, with the arguments of `openbrain.exec`.

        A command that ends by itself leaves its background processes running. Of the limits,
        `output` and `open_files` are those of a command; the others are the sandbox's.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "command", "check")}
        return self.command(build(command, **options)).run(check=check)

    async def exec_async(
        self,
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        limits: Limits | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """As `exec`. Cancelling it kills the command, not the sandbox."""
        options = {k: v for k, v in locals().items() if k not in ("self", "command", "check")}
        return await self.command(build(command, **options)).run_async(check=check)

    def command(self, command: Words | Exec) -> Exec:
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
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        limits: Limits | None = None,
    ) -> Background:
        r"""Starts a command in the background, with the arguments of `openbrain.exec`.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     server = sandbox.start("echo ready; sleep 60")
        ...     server.wait_for_log("ready", 10)
        ...     sandbox.exec("echo beside it").stdout
        'beside it\n'
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "command")}
        request, given, args = parts(build(command, **options))
        return Background(wait(self._open().start(request, given)), args)

    async def start_async(
        self,
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        shell: str | None = None,
        limits: Limits | None = None,
    ) -> Background:
        """As `start`."""
        options = {k: v for k, v in locals().items() if k not in ("self", "command")}
        request, given, args = parts(build(command, **options))
        return Background(await wait_async(self._open().start(request, given)), args)

    def wait_for_port(self, port: int, timeout: float | datetime.timedelta) -> None:
        """Waits until something in the sandbox listens on a TCP port, on 127.0.0.1 or ::1.

        Raises:
            WaitTimeoutError: The time is over.
        """
        wait(self._open().wait_for_port(port, span(timeout)))

    async def wait_for_port_async(self, port: int, timeout: float | datetime.timedelta) -> None:  # noqa: ASYNC109
        """As `wait_for_port`."""
        await wait_async(self._open().wait_for_port(port, span(timeout)))

    def shell(self, program: str | None = None) -> Shell:
        """A shell whose working directory and exported variables persist.

        Args:
            program: A shell that understands what `sh` does, such as `bash`; `None` for `sh`.
        """
        return Shell(self._open().shell(program))

    def forward(self, port: int, local: tuple[str, int] = ("127.0.0.1", 0)) -> Forward:
        """Makes a TCP port of the sandbox reachable at a loopback address of this host.

        Args:
            port: The port in the sandbox.
            local: Address and port of this host; port 0 is one that the system chooses.

        Raises:
            InvalidRequestError: The address is not the loopback address.
            ConnectionFailedError: It cannot be listened on.
        """
        return Forward(wait(self._open().forward(port, *local)))

    async def forward_async(self, port: int, local: tuple[str, int] = ("127.0.0.1", 0)) -> Forward:
        """As `forward`."""
        return Forward(await wait_async(self._open().forward(port, *local)))

    def changes(self) -> Changes:
        r"""What its commands have changed until now, in `overlay` mounts and in what it has itself.

        Changes are for the end: they are applied when the sandbox is gone. Embedded sandboxes can.

        >>> import pathlib
        >>> from openbrain import Sandbox
        >>> pathlib.Path("old").write_text("one\n")
        4
        >>> with Sandbox(network=False, mounts=".:/workspace:overlay") as sandbox:
        ...     _ = sandbox.exec("echo two >> old")
        ...     saved = sandbox.changes().save()
        >>> saved.apply().paths
        ('/workspace/old',)
        """
        return Changes.of(*wait(self._open().changes()))

    async def changes_async(self) -> Changes:
        """As `changes`."""
        return Changes.of(*await wait_async(self._open().changes()))


def _volume_form(volume: Volume) -> dict[str, typing.Any]:
    mode = "ro" if volume.read_only else "rw"
    return {"source": volume.host_path, "target": volume.container_path, "mode": mode}
