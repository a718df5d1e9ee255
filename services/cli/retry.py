"""How long a cut stream is worth taking up again."""

import asyncio
from collections.abc import Callable

import grpc

from services.cli import refusal


class Patience:
    """Waits between tries, doubling, and gives up when `limit` seconds brought no progress.

    Before anything was received at all the limit is `first_limit`: a server that was never there
    is reported at once rather than waited for.
    """

    def __init__(
        self,
        *,
        limit: float = 60.0,
        first_limit: float = 1.0,
        shortest: float = 0.1,
        longest: float = 3.0,
        on_wait: Callable[[refusal.Refusal], None] | None = None,
    ) -> None:
        self._limit = limit
        self._current_limit = first_limit
        self._shortest = shortest
        self._longest = longest
        self._on_wait = on_wait
        self._pause = shortest
        self._since: float | None = None

    def progressed(self) -> None:
        """Something arrived: all earlier failures are forgotten."""
        self._current_limit = self._limit
        self._pause = self._shortest
        self._since = None

    async def wait(self, error: grpc.aio.AioRpcError) -> None:
        """Pause before the next try, or raise `error` when another one is not worth it."""
        cause = refusal.read(error)
        if not cause.is_passing:
            raise error
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        if now - self._since >= self._current_limit:
            raise error
        if self._on_wait:
            self._on_wait(cause)
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, self._longest)


def cut(explanation: str) -> grpc.aio.AioRpcError:
    """The error of a stream that ended in good order but too early, or that fell silent."""
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), explanation
    )
