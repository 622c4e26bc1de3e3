"""Commands in a sandbox one after the other, as in one shell."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .hints import Bytes, Limits, Path, Words, datetime
from .output import Output
from .request import Exec, Stdin, placed
from .verbs import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._openbrain import Shell as Native

__all__ = ["Shell"]


class Shell:
    r"""Commands in a sandbox of which each begins where the last one left off.

    The working directory and the exported variables are kept, however a command ends, but for one
    that is killed and one that puts another program in the shell's place by `exec`. Nothing else
    is kept. Each is an ordinary command with its own deadline, streams and result, and waits for
    the end of the last one. A shell does not keep its sandbox open.

        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     shell = sandbox.shell()
        ...     _ = shell.run("mkdir -p project && cd project && export MODE=release")
        ...     shell.run("pwd; echo $MODE").stdout
        '/workspace/project\nrelease\n'
    """

    __slots__ = ("_native",)

    def __init__(self, native: Native) -> None:
        """Made by `Sandbox.shell`."""
        self._native = native

    def run(
        self,
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        limits: Limits | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """Runs a command to its end, with the arguments of `Sandbox.exec`.

        Its working directory and variables are those of the shell from then on.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "command", "check")}
        return self.command(build(command, **options)).run(check=check)

    async def run_async(
        self,
        command: Words | Exec,
        *,
        timeout: float | datetime.timedelta | None = None,  # noqa: ASYNC109
        workdir: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Bytes | str | os.PathLike[str] | Stdin | None = None,
        limits: Limits | None = None,
        tty: tuple[int, int] | None = None,
        check: bool = False,
    ) -> Output:
        """As `run`. Cancelling it kills the command, and leaves the shell as it was before."""
        options = {k: v for k, v in locals().items() if k not in ("self", "command", "check")}
        return await self.command(build(command, **options)).run_async(check=check)

    def command(self, command: Words | Exec) -> Exec:
        """The request of a command that runs in this shell, to `run`, `stream` or `spawn` it."""
        return placed(build(command), self._native)
