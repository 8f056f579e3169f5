"""A buffer at work, with its loops running, on a disk that refuses calls for a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable
from typing import Any

from gateway.buffer import disk
from gateway.errors import Rejected
from tests.faults.storage.life import Life
from tests.faults.storage.shim import CHANGES, ERRORS, Op, Shim

STEPS = 80
STEP_S = 0.004
PATIENCE_S = 10.0
PARTS = ("", "sealed.db", "sealed.db-wal", "bodies-", "tail-", "tail-0", "tail-1")
KINDS: tuple[tuple[Op, ...], ...] = (CHANGES, (Op.WRITE, Op.ALLOCATE), (Op.SYNC,), (Op.WRITE,), (Op.TRUNCATE,))


async def run(life: Life, shim: Shim, rng: random.Random) -> str:
    """Ends the process by itself in one case of three; returns when the buffer went on and was closed."""
    _hurry(rng)
    buffer = await life.open()
    buffer.batch_interval_s = 0.03
    waiting: set[asyncio.Task[None]] = set()
    loops = asyncio.create_task(buffer.run())
    begin, end = sorted(rng.sample(range(5, STEPS - 10), 2))
    error, part, ops = rng.choice(list(ERRORS)), rng.choice(PARTS), rng.choice(KINDS)
    brief = Op.WRITE in ops and rng.random() < 0.3
    count = rng.choice([1, 3, 10**6])
    what = f"{error} at {'/'.join(op.name for op in ops) if len(ops) < 5 else 'any change'} of {part or 'any file'}"
    what += f", {'short' if brief else 'whole'}, {count if count < 10**6 else 'all'} calls"
    (life.folder.parent.parent / "fault").write_text(what)
    for step in range(STEPS):
        if step == begin:
            shim.fail(part, ops, error, first=1, last=count, brief=brief)
        if step == end:
            shim.heal()
        for _ in range(rng.randint(0, 4)):
            receipt = life.append()
            if rng.random() < 0.1:
                waiting.add(asyncio.create_task(_promise(life, receipt, life._n)))
        if rng.random() < 0.1:
            waiting.add(asyncio.create_task(_unless_refused(rng.choice([life.lose, life.event])())))
        if rng.random() < 0.05:
            waiting.add(asyncio.create_task(_unless_refused(life.acknowledge())))
        assert not loops.done(), f"the buffer's loops ended: {loops.exception()!r}"
        await asyncio.sleep(STEP_S)
    if rng.random() < 0.3:
        os._exit(137)
    async with asyncio.timeout(PATIENCE_S):  # it goes on by itself
        while pending := [one for one in waiting if not one.done()]:
            life.append()
            await asyncio.wait(pending, timeout=0.01)
        await asyncio.gather(*waiting)
        while buffer.refused():
            life.append()
            await asyncio.sleep(0.01)
        await buffer.seal()
    life.say("written", life._n)
    if rng.random() < 0.3:
        os._exit(137)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    await life.close()
    return what


def _hurry(rng: random.Random) -> None:
    disk.FLUSH_EVERY_S = 0.005
    disk.URGENT_WITHIN_S = 0.002
    disk.LOOK_EVERY_S = 0.005
    disk.RETRY_S = 0.02
    disk.TIDY_EVERY_S = 0.05
    disk.MAX_UNSEALED_READINGS = rng.choice([40, 10**6])


async def _promise(life: Life, receipt: Any, n: int) -> None:
    with contextlib.suppress(Rejected):
        await receipt.durable()
        life.say("durable-row", n)


async def _unless_refused(act: Awaitable[None]) -> None:
    with contextlib.suppress(OSError):
        await act
