"""The two ways to wait for what the native module does: a thread's, and an event loop's."""

from __future__ import annotations

from .hints import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import TypeVar

    from ._openbrain import Pending

    _T = TypeVar("_T")

# Seconds that a call which was interrupted or cancelled waits at most until its command is dead.
# It takes milliseconds, unless the command is on a server.
PATIENCE = 1.0


def wait(pending: Pending[_T]) -> _T:
    """Blocks until the answer is there. Ctrl-C kills the command first, then it is raised."""
    pending.wait(PATIENCE)
    return pending.take()


async def wait_async(pending: Pending[_T]) -> _T:
    """Waits for the answer. A cancellation kills the command first, then it is raised."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        await _ready(loop, pending, None)
    except asyncio.CancelledError:
        pending.stop()
        await _settle(loop, pending)
        raise
    return pending.take()


async def _settle(loop: asyncio.AbstractEventLoop, pending: Pending[_T]) -> None:
    """Waits a bounded time, though it is cancelled again: the first cancellation is on its way."""
    import asyncio

    until = loop.time() + PATIENCE
    while not pending.done() and loop.time() < until:
        try:
            await _ready(loop, pending, until - loop.time())
        except asyncio.CancelledError:
            continue


async def _ready(
    loop: asyncio.AbstractEventLoop, pending: Pending[_T], seconds: float | None
) -> None:
    """Returns when the answer is there or the time is over.

    No thread but the loop's own is involved, so that there is nothing to go wrong when the loop is
    closed: it merely looks at the descriptor no more.
    """
    future: asyncio.Future[None] = loop.create_future()
    descriptor = pending.fileno()
    loop.add_reader(descriptor, _resolve, future)
    timer = None if seconds is None else loop.call_later(seconds, _resolve, future)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def span(timeout: float | datetime.timedelta) -> float:
    """A time as the native module takes it, where there has to be one."""
    given = seconds(timeout)
    if given is None:
        raise TypeError("a time is seconds or a timedelta, not None")
    return given


def seconds(timeout: float | datetime.timedelta | None) -> float | None:
    """A time as the native module takes it."""
    if timeout is None or isinstance(timeout, (int, float)):
        return timeout
    return timeout.total_seconds()
