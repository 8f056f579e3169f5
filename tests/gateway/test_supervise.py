from __future__ import annotations

import asyncio

from gateway.supervise import supervised


async def test_a_part_whose_child_fails_while_it_is_cancelled_ends_all_the_same() -> None:
    """A TaskGroup then raises the failure and not the cancellation."""
    begun = asyncio.Event()

    async def child() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("the file is gone")

    async def part() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())

    running = asyncio.create_task(supervised("part", part))
    await begun.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done
    assert running.cancelled()
