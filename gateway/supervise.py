"""Runs a part for ever: whatever leaves it is logged and counted, and it is started again after a backoff."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gateway.backoff import Backoff
from gateway.cancelling import apart
from gateway.errors import ComboioError, Retryable

log = structlog.get_logger("gateway")
STEADY_S = 60.0


@dataclass(slots=True)
class Failure:
    """How often a part was started again, and why the last time (loop time)."""

    restarts: int = 0
    why: str = ""
    at_s: float = 0.0


class Failures:
    """What left supervised parts, by their names."""

    def __init__(self) -> None:
        self._parts: dict[str, Failure] = {}

    def add(self, name: str, why: str, *, at_s: float) -> None:
        failure = self._parts.setdefault(name, Failure())
        failure.restarts, failure.why, failure.at_s = failure.restarts + 1, why, at_s

    def of(self, name: str) -> Failure:
        return self._parts.get(name, Failure())

    def recent(self, *, now_s: float) -> dict[str, Failure]:
        """Parts that have not run steadily since."""
        return {name: one for name, one in self._parts.items() if now_s - one.at_s <= STEADY_S}


async def supervised(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    cap_s: float = 30.0,
    failures: Failures | None = None,
    known_as: str | None = None,
) -> None:
    """Ends only by cancellation. Only the first of a row of equal failures is an error with a traceback.

    Failures are noted as those of `known_as`, else of `name`.
    """
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
        if failures is not None:
            failures.add(known_as or name, said, at_s=loop.time())
        await asyncio.sleep(max(delay_s, backoff.next_s()))
