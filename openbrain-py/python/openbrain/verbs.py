"""The call that runs one command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from .hints import Bytes, Limits, Path, Words, datetime, typing
from .output import Output
from .request import Exec, Mount, Stdin, environment, listed, mount_form, several
from .waiting import seconds

__all__ = ["exec", "exec_async"]


def exec(
    command: Words | Exec,
    *,
    sandbox: bool | None = None,
    timeout: float | datetime.timedelta | None = None,
    workdir: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
    shell: str | None = None,
    mounts: Path | Mount | Iterable[Path | Mount] = (),
    expose: Path | Iterable[Path] = (),
    network: bool | None = None,
    allowed_ports: Iterable[int] | None = None,
    allowed_domains: Iterable[str] | None = None,
    allowed_hosts: Iterable[str] | None = None,
    changes: bool = False,
    limits: Limits | None = None,
    tty: tuple[int, int] | None = None,
    check: bool = False,
) -> Output:
    r"""Runs a command to its end and collects its output.

    A non-zero exit and a timeout are values. Keywords beside an `Exec` add to its variables,
    limits, mounts and exposed paths, and take the place of the rest that it has. Ctrl-C kills the
    command with everything that it started.

        >>> import openbrain
        >>> openbrain.exec("echo hello", sandbox=True, timeout=60).stdout
        'hello\n'
        >>> openbrain.exec(["echo", "$HOME"]).stdout
        '$HOME\n'
        >>> openbrain.exec("sleep 60", timeout=0.1).timed_out
        True

    Args:
        command: A text is a script for the shell; a sequence is a program and its arguments,
            without a shell.
        sandbox: Whether to run in a sandbox; `None` as the settings say.
        timeout: Seconds or a `timedelta` until the command and all its processes are killed;
            `None` for the default of the settings.
        workdir: Working directory; `/workspace` in a sandbox, the caller's own outside.
        env: Environment variables to set. A sandbox has nothing else but a clean base.
        stdin: What the command reads: bytes, a text, a host file by its path, `INHERIT`.
        shell: The shell that runs a script; `/bin/sh` unless given.
        mounts: Host directories to make visible in the sandbox: paths, `SRC:DST[:mode]`, `Mount`.
        expose: Host paths to make visible, read-only, at the same place.
        network: Whether the sandbox may reach the network; `None` as the settings say.
        allowed_ports: The only TCP ports that the sandbox may reach.
        allowed_domains: The only names that the sandbox may reach.
        allowed_hosts: Private services that the sandbox may reach beside the public ones.
        changes: Report what the command has changed, as `Output.changes`; embedded sandboxes can.
        limits: Resource limits by name, as in `Exec.limits`.
        tty: Run on a pseudo-terminal of so many rows and columns.
        check: Raise `CommandFailedError` unless the command succeeds.

    Raises:
        OpenbrainError: The command could not be run.
    """
    options = {k: v for k, v in locals().items() if k not in ("command", "check")}
    return build(command, **options).run(check=check)


async def exec_async(
    command: Words | Exec,
    *,
    sandbox: bool | None = None,
    timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
    workdir: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
    shell: str | None = None,
    mounts: Path | Mount | Iterable[Path | Mount] = (),
    expose: Path | Iterable[Path] = (),
    network: bool | None = None,
    allowed_ports: Iterable[int] | None = None,
    allowed_domains: Iterable[str] | None = None,
    allowed_hosts: Iterable[str] | None = None,
    changes: bool = False,
    limits: Limits | None = None,
    tty: tuple[int, int] | None = None,
    check: bool = False,
) -> Output:
    r"""As `exec`, in an event loop. Cancelling it kills the command, before the call returns.

    >>> import asyncio, openbrain
    >>> asyncio.run(openbrain.exec_async("echo hello")).stdout
    'hello\n'
    """
    options = {k: v for k, v in locals().items() if k not in ("command", "check")}
    return await build(command, **options).run_async(check=check)


def build(
    command: Words | Exec,
    *,
    timeout: float | datetime.timedelta | None = None,
    workdir: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
    mounts: Path | Mount | Iterable[Path | Mount] = (),
    expose: Path | Iterable[Path] = (),
    network: bool | None = None,
    allowed_ports: Iterable[int] | None = None,
    allowed_domains: Iterable[str] | None = None,
    allowed_hosts: Iterable[str] | None = None,
    changes: bool = False,
    limits: Limits | None = None,
    tty: tuple[int, int] | None = None,
    **plain: typing.Any,
) -> Exec:
    """The request of the keywords; those that are `None` or empty leave it as it is.

    Variables, limits, mounts and exposed paths are added to those that it has, as the builder adds
    them. The lists of what may be reached are replaced, so that they can be made narrower.
    """
    exec = command if isinstance(command, Exec) else Exec(command)
    if stdin is not None:
        exec = exec.stdin(stdin)
    known = exec._fields  # pyright: ignore[reportPrivateUsage]
    given: dict[str, typing.Any] = {
        "timeout": seconds(timeout),
        "workdir": None if workdir is None else os.fspath(workdir),
        "env": {**known.get("env", {}), **environment(env or {})} or None,
        "mounts": [*known.get("mounts", []), *map(mount_form, several(mounts))] or None,
        "expose": [*known.get("expose", []), *map(os.fspath, several(expose))] or None,
        "allow_network": network,
        "allowed_ports": listed(allowed_ports),
        "allowed_domains": listed(allowed_domains),
        "allowed_hosts": listed(allowed_hosts),
        "changes": changes or None,
        "limits": {**known.get("limits", {}), **(limits or {})} or None,
        "tty": None if tty is None else {"rows": tty[0], "cols": tty[1]},
        **plain,
    }
    return exec._with(**{name: value for name, value in given.items() if value is not None})  # pyright: ignore[reportPrivateUsage]
