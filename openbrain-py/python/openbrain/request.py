"""The request: one command and how to run it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from . import _openbrain as native  # pyright: ignore[reportPrivateUsage]
from .content import content
from .hints import Bytes, Path, Words, datetime, typing
from .output import Output
from .process import Process
from .record import Record, short, thaw
from .stream import AsyncStream, Stream
from .waiting import seconds, wait, wait_async

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._openbrain import Pending
    from ._openbrain import Process as Native

    class _Place(typing.Protocol):
        """Where commands are run: the native module, or a native sandbox."""

        def run(
            self, request: dict[str, typing.Any], stdin: bytes | None
        ) -> Pending[tuple[dict[str, typing.Any], bytes, bytes]]: ...
        def spawn(self, request: dict[str, typing.Any], stdin: bytes | None) -> Pending[Native]: ...


__all__ = ["INHERIT", "PIPE", "Exec", "Mount"]


class Mount(Record):
    """A host path made visible inside a sandbox.

        >>> import openbrain
        >>> openbrain.Mount("/data", "/mnt/data", "ro")
        Mount(source='/data', target='/mnt/data', mode='ro')

    Attributes:
        source: Host path. A relative one is taken from the working directory.
        target: Absolute path inside the sandbox.
        mode: What happens to writes: `rw` lets them reach the host, `ro` refuses them, `overlay`
            throws them away with the sandbox.
    """

    source: str
    target: str
    mode: typing.Literal["rw", "ro", "overlay"]
    __slots__ = __match_args__ = ("source", "target", "mode")

    def __init__(
        self,
        source: Path,
        target: Path = "/workspace",
        mode: typing.Literal["rw", "ro", "overlay"] = "rw",
    ) -> None:
        super().__init__(source=os.fspath(source), target=os.fspath(target), mode=mode)


class Stdin:
    """A source of standard input that is neither bytes nor a file: `PIPE` or `INHERIT`."""

    __slots__ = ("_name", "form")

    form: typing.Final[dict[str, bool]]  # pyright: ignore[reportGeneralTypeIssues]

    def __init__(self, name: str, form: dict[str, bool]) -> None:
        self._name = name
        self.form = form

    def __repr__(self) -> str:
        return f"openbrain.{self._name}"

    def __reduce__(self) -> str:
        return self._name


PIPE = Stdin("PIPE", {"pipe": True})
"""Standard input is written while the command runs: `Process.write`."""

INHERIT = Stdin("INHERIT", {"inherit": True})
"""Standard input is this process's own."""


class Exec:
    r"""One command and how to run it.

    Everything that is left out is decided by the settings. Each method returns a new request, so
    that one can be the beginning of many.

        >>> import openbrain
        >>> result = openbrain.Exec("echo $NAME").sandbox().timeout(60).env("NAME", "you").run()
        >>> result.stdout
        'you\n'

    Args:
        command: A text is a script for the shell; a sequence is a program and its arguments,
            without a shell.
    """

    __slots__ = ("_args", "_fields", "_place", "_stdin")

    def __init__(self, command: Words) -> None:
        if isinstance(command, str):
            self._args: str | tuple[str, ...] = command
        elif isinstance(command, bytes | bytearray):
            raise TypeError("a command is a text or a sequence of texts, not bytes")
        else:
            self._args = tuple(os.fspath(part) for part in command)
        self._fields: dict[str, typing.Any] = {"command": self._args}
        self._stdin: bytes | None = None
        self._place: _Place = native

    @classmethod
    def script(cls, source: str, language: str | None = None) -> Exec:
        r"""A program as text. Without a language its `#!` line decides, and Python without that.

            >>> import openbrain
            >>> openbrain.Exec.script("print(6 * 7)", "python").run().stdout
            '42\n'

        Args:
            source: The text of the program.
            language: `python`, `sh`, `bash`, `node`, `ruby`, `perl` or `php`.
        """
        form = {"source": source} if language is None else {"source": source, "language": language}
        return cls(source)._with(command=form)

    def sandbox(self) -> Exec:
        """Runs the command in a sandbox."""
        return self._with(sandbox=True)

    def direct(self) -> Exec:
        """Runs the command on the host even where the settings' default is a sandbox."""
        return self._with(sandbox=False)

    def timeout(self, timeout: float | datetime.timedelta | None) -> Exec:
        """Kills the command and all its processes after this time.

        Args:
            timeout: Seconds or a `timedelta`; `None` for the default of the settings.
        """
        return self._with(timeout=seconds(timeout))

    def workdir(self, path: Path) -> Exec:
        """Sets the working directory."""
        return self._with(workdir=os.fspath(path))

    def env(self, name: str, value: str) -> Exec:
        """Sets an environment variable."""
        return self._with(env={**self._fields.get("env", {}), **environment({name: value})})

    def stdin(self, source: Bytes | str | os.PathLike[str] | Stdin) -> Exec:
        """Says what the command reads.

        Args:
            source: Bytes, a text, a host file by its path, `PIPE` or `INHERIT`.
        """
        changed = self._with(stdin=None)
        if isinstance(source, Stdin):
            changed._fields["stdin"] = source.form
        elif isinstance(source, os.PathLike):
            changed._fields["stdin"] = {"file": os.fspath(source)}
        else:
            changed._stdin = content(
                source, "standard input is bytes, a text, a path, PIPE or INHERIT"
            )
        return changed

    def shell(self, shell: str) -> Exec:
        """Chooses the shell that runs a script, for example `bash`."""
        return self._with(shell=shell)

    def mount(
        self,
        source: Path | Mount,
        target: Path | None = None,
        mode: typing.Literal["rw", "ro", "overlay"] | None = None,
    ) -> Exec:
        """Makes a host path visible in the sandbox.

        Args:
            source: A host path, or a `Mount`. A text alone may also be `SRC:DST[:ro|rw|overlay]`.
            target: Where it appears. A source alone is the working directory, `/workspace`.
            mode: What happens to writes, `rw` unless given.
        """
        if target is None and mode is None:
            return self._add("mounts", mount_form(source))
        if isinstance(source, Mount):
            raise TypeError("a `Mount` has its target and mode already")
        return self._add("mounts", Mount(source, target or "/workspace", mode or "rw").to_dict())

    def expose(self, path: Path) -> Exec:
        """Makes a host path visible, read-only, at the same place: a tool chain in a home."""
        return self._add("expose", os.fspath(path))

    def network(self, allow: bool) -> Exec:
        """Allows or forbids the network."""
        return self._with(allow_network=allow)

    def allow_port(self, port: int) -> Exec:
        """Allows the network for this TCP port, and for none that is not allowed in this way."""
        return self._add("allowed_ports", port)

    def allow_domain(self, name: str) -> Exec:
        """Allows the network for this name, and for none that is not allowed in this way.

        `example.com`, `*.example.com`, `example.com:8443`.
        """
        return self._add("allowed_domains", name)

    def allow_host(self, host: str) -> Exec:
        """Allows a private service beside the public ones: `10.0.0.5:5432`, `localhost:11434`."""
        return self._add("allowed_hosts", host)

    def limits(
        self,
        *,
        memory: int | str | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        disk: int | str | None = None,
        open_files: int | None = None,
        output: int | str | None = None,
    ) -> Exec:
        """Sets resource limits; those left out keep the values of the settings.

        Args:
            memory: Memory of all processes together: bytes, or a text such as `512m`.
            cpus: Processors, as a number that may have a fraction.
            pids: Processes and threads at a time.
            disk: Everything written inside the sandbox outside of mounts, as `memory`.
            open_files: Open file descriptors of one process.
            output: Output kept in a result, for each stream, as `memory`.
        """
        given = {
            "memory": memory,
            "cpus": cpus,
            "pids": pids,
            "disk": disk,
            "open_files": open_files,
            "output": output,
        }
        set_now = {name: value for name, value in given.items() if value is not None}
        return self._with(limits={**self._fields.get("limits", {}), **set_now})

    def changes(self) -> Exec:
        """Reports what the command has changed, as `Output.changes`; embedded sandboxes can.

        The report takes its time in addition to the timeout: by what has changed, 30 s at most.
        """
        return self._with(changes=True)

    def tty(self, rows: int, cols: int) -> Exec:
        """Runs the command on a pseudo-terminal of this size."""
        return self._with(tty={"rows": rows, "cols": cols})

    def run(self, *, check: bool = False) -> Output:
        """Runs the command to its end and collects its output, up to a limit.

        Ctrl-C kills the command with everything that it started.

        Args:
            check: Raise `CommandFailedError` unless the command succeeds.

        Raises:
            OpenbrainError: The command could not be run.
        """
        return self._output(wait(self._place.run(self._fields, self._stdin)), check)

    async def run_async(self, *, check: bool = False) -> Output:
        r"""As `run`. Cancelling it kills the command with everything that it started.

        >>> import asyncio, openbrain
        >>> asyncio.run(openbrain.Exec("echo hello").run_async()).stdout
        'hello\n'
        """
        return self._output(await wait_async(self._place.run(self._fields, self._stdin)), check)

    def spawn(self) -> Process:
        """Starts the command and returns its running process."""
        return Process(wait(self._place.spawn(self._fields, self._stdin)), self._args)

    async def spawn_async(self) -> Process:
        """As `spawn`."""
        return Process(await wait_async(self._place.spawn(self._fields, self._stdin)), self._args)

    def stream(self) -> Stream:
        """The events of the command, which starts with the first of them."""
        return Stream(self)

    def stream_async(self) -> AsyncStream:
        """The events of the command for `async for`. It starts with the first of them."""
        return AsyncStream(self)

    def to_dict(self) -> dict[str, typing.Any]:
        """The request as REST and MCP have it, but for standard input given as bytes."""
        return {name: thaw(value) for name, value in self._fields.items()}

    def __copy__(self) -> typing.Self:
        return self

    def __deepcopy__(self, memo: object) -> typing.Self:
        return self

    def __reduce__(self) -> tuple[typing.Any, ...]:
        if self._place is not native:
            raise TypeError("a command of a sandbox cannot be pickled")
        return _restore, (type(self), self._args, self._fields, self._stdin)

    def __repr__(self) -> str:
        # Values of variables may be secrets, and so may standard input.
        fields = {name: value for name, value in self._fields.items() if name != "command"}
        if env := fields.get("env"):
            fields["env"] = sorted(env)
        if self._stdin is not None:
            fields["stdin"] = f"{len(self._stdin)} bytes"
        rest = (f", {name}={short(value)}" for name, value in fields.items())
        return f"Exec({short(self._args)}{''.join(rest)})"

    def _with(self, **fields: typing.Any) -> typing.Self:
        changed = object.__new__(type(self))
        changed._args = self._args
        changed._place = self._place
        changed._stdin = None if "stdin" in fields else self._stdin
        kept = {
            name: value for name, value in {**self._fields, **fields}.items() if value is not None
        }
        changed._fields = kept
        return changed

    def _add(self, name: str, value: object) -> typing.Self:
        return self._with(**{name: [*self._fields.get(name, []), value]})

    def _output(self, answer: tuple[dict[str, typing.Any], bytes, bytes], check: bool) -> Output:
        output = Output.of(self._args, answer)
        return output.check() if check else output


def _restore(
    kind: type[Exec],
    args: str | tuple[str, ...],
    fields: dict[str, typing.Any],
    stdin: bytes | None,
) -> Exec:
    exec = kind(args)._with(**fields)  # pyright: ignore[reportPrivateUsage]
    exec._stdin = stdin  # pyright: ignore[reportPrivateUsage]
    return exec


def placed(exec: Exec, place: _Place) -> Exec:
    """The same request, to be run there."""
    moved = exec._with()  # pyright: ignore[reportPrivateUsage]
    moved._place = place  # pyright: ignore[reportPrivateUsage]
    return moved


def parts(exec: Exec) -> tuple[dict[str, typing.Any], bytes | None, str | tuple[str, ...]]:
    """The request, its standard input, and the command as it was given."""
    return exec._fields, exec._stdin, exec._args  # pyright: ignore[reportPrivateUsage]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Variables, each of them a text; the value of one that is not is not shown."""
    for name, value in env.items():
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the value of the variable {name!r} is not a text")
    return dict(env)


def mount_form(mount: Path | Mount) -> str | dict[str, typing.Any]:
    """A mount as the request has it."""
    if isinstance(mount, Mount):
        return mount.to_dict()
    # A path object is a path, whatever is in it; a text may say more.
    return mount if isinstance(mount, str) else Mount(mount).to_dict()


def several(items: typing.Any) -> Iterable[typing.Any]:
    """One path or name is as good as a list of one; a text is never meant as its characters."""
    return [items] if isinstance(items, (str, os.PathLike, Mount)) else items


def listed(items: Iterable[typing.Any] | None) -> list[typing.Any] | None:
    """A list of the request, where none is another thing than an empty one."""
    return None if items is None else [*several(items)]
