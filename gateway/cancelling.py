"""Cancelling what may swallow it, or must not be left half done."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


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


def whole(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a method to its end even if its caller is cancelled, so that memory never runs ahead of the files."""

    @functools.wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(method(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    return run
