"""Cancelling what may swallow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def apart(run: Callable[[], Awaitable[T]]) -> T:
    """Await `run()` in a task of its own, so that a cancellation of the caller always reaches the caller.

    A TaskGroup that is cancelled while one of its children fails raises only the failure; a loop around it would take
    that for any other failure, go on, and never end.
    """

    async def whole() -> T:
        return await run()

    task = asyncio.create_task(whole())
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # what it failed with while it ended interests nobody any more
        raise
    return task.result()
