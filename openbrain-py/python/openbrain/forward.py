"""A port of the host that leads to one of a sandbox."""

from __future__ import annotations

from .hints import typing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from ._openbrain import Forward as Native

__all__ = ["Forward"]


class Forward:
    r"""A port of this host that leads to one of a sandbox.

    `close`, the `with` block and dropping it close the port and its connections. Every user of this
    host can connect there. Up to 32 connections are relayed at a time, others wait.

        >>> from urllib.request import urlopen
        >>> from openbrain import Sandbox
        >>> with Sandbox(timeout=60, network=False) as sandbox:
        ...     _ = sandbox.start("echo hello >index.html; python3 -m http.server 8000")
        ...     sandbox.wait_for_port(8000, 20)
        ...     with sandbox.forward(8000) as forward:
        ...         urlopen(f"http://127.0.0.1:{forward.port}/").read()
        b'hello\n'
    """

    __slots__ = ("_native", "address")

    address: tuple[str, int]
    """Where it listens: an address and a port."""

    def __init__(self, native: Native) -> None:
        """Made by `Sandbox.forward`."""
        self._native = native
        self.address = native.address()

    @property
    def port(self) -> int:
        """The port of this host."""
        return self.address[1]

    def close(self) -> None:
        """Closes the port and its connections."""
        self._native.close()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Forward {self.address[0]}:{self.port}>"
