"""Runs a part for ever: whatever leaves it is logged and counted, and it is started again after a backoff."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.backoff import Backoff
from gateway.cancelling import apart
from gateway.errors import ComboioError, Retryable

log = structlog.get_logger("gateway")
STEADY_S = 60.0


async def supervised(name: str, run: Callable[[], Awaitable[None]], *, cap_s: float = 30.0) -> None:
    """Ends only by cancellation. Only the first of a row of equal failures is an error with a traceback."""
    backoff = Backoff(base_s=0.2, cap_s=cap_s)
    last = ""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        delay_s = 0.0
        try:
            await apart(run)
            said = "it ended by itself"
        except ComboioError as error:
            said = str(error)
            delay_s = (error.after_s or 0.0) if isinstance(error, Retryable) else 0.0
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if said != last:
                log.exception("part.failed", part=name)
        if loop.time() - began > STEADY_S:
            backoff.reset()
            last = ""
        if said != last:
            log.warning("part.restarting", part=name, why=said)
        last = said
        await asyncio.sleep(max(delay_s, backoff.next_s()))
