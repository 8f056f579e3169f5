"""What must hold on any BlueZ, the simulated one and the real one: the same few lines keep the simulator honest."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from tests.gateway.sensors.listening import Facts, Listening, listening

PROBE, READ, TOLD = "C4:00:00:00:00:01", "C4:00:00:00:00:02", "C4:00:00:00:00:03"
"""A BTHome thermometer that advertises, a peripheral that is read, one that notifies."""
DOCUMENT = f"""
[ble]
turn_s = 20.0
[[sensor]]
id = "probe"
driver = "ble"
address = "{PROBE}"
profile = "bthome-thermometer@1"
[[sensor]]
id = "read"
driver = "gatt"
address = "{READ}"
profile = "bluetooth-environment@1"
every_s = 0.5
[[sensor]]
id = "told"
driver = "gatt"
address = "{TOLD}"
profile = "bluetooth-thermometer@1"
every_s = 0.5
"""
LOCKED, PASSKEY = "C4:00:00:00:00:04", 143_334
"""A peripheral that answers only who is paired with it."""
LOCKED_VALUE = bytes.fromhex("b2036001252749 5a 01 2c01 0c00".replace(" ", ""))
LOCKED_SENSOR = f"""
[ble]
turn_s = 40.0
[[sensor]]
id = "locked"
driver = "gatt"
address = "{LOCKED}"
profile = "aranet-aranet4@1"
every_s = 1.0
passkey_file = "{{path}}"
"""
SENSORS = ("probe", "read", "told")
SETTLED_S = 1.0


class Stage(Protocol):
    """A BlueZ with these on the air. Each of them counts: no two of its measurements are equal."""

    patience_s: float

    async def power(self, *, on: bool) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...
    async def start(self) -> None: ...


async def everything_comes_through(stage: Stage) -> None:
    """Advertisements, reads and notifications."""
    async with listening(DOCUMENT) as running:
        await all_have(running, 3, stage)
    for name in SENSORS:
        nothing_twice(running.facts[name], name)


async def after_the_adapter_was_off(stage: Stage) -> None:
    async def off() -> None:
        await stage.power(on=False)

    async def on() -> None:
        await stage.power(on=True)

    await after(stage, off, on)


async def after_bluetoothd_restarted(stage: Stage) -> None:
    await after(stage, stage.stop, stage.start)


async def after_bluetoothd_was_killed(stage: Stage) -> None:
    await after(stage, stage.kill, stage.start)


async def after(stage: Stage, breaks: Callable[[], Awaitable[None]], mends: Callable[[], Awaitable[None]]) -> None:
    """Nothing while it is broken, everything again afterwards, nothing twice, and the loss in gaps."""
    async with listening(DOCUMENT) as running:
        await all_have(running, 2, stage)
        await breaks()
        during = await quiet(running, stage)
        await mends()
        await all_have(running, 2, stage, beyond=during)
        for name in SENSORS:
            nothing_twice(running.facts[name], name)
    for name in SENSORS:
        assert running.facts[name].losts, f"{name}: what was missed is in no gap"


async def quiet(running: Listening, stage: Stage) -> dict[str, int]:
    """What was on its way arrives, and then nothing is heard of a BlueZ that is not there. How many rows there are."""
    since = time.monotonic()
    found = counts(running)
    deadline = since + stage.patience_s
    while time.monotonic() - since < SETTLED_S:
        assert time.monotonic() < deadline, "something goes on telling"
        await asyncio.sleep(0.05)
        if counts(running) != found:
            found, since = counts(running), time.monotonic()
    return found


async def who_wants_a_passkey_is_paired_once(stage: Stage) -> None:
    """By the agent of ours, and then read; the bond outlives bluetoothd."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "passkey"
        path.write_text(f"{PASSKEY:06d}")
        path.chmod(0o600)
        async with listening(LOCKED_SENSOR.format(path=path)) as running:
            await locked_has(running, 2, stage)
            await stage.stop()
            await stage.start()
            await locked_has(running, len(running.facts["locked"].rows) + 1, stage)


async def locked_has(running: Listening, count: int, stage: Stage) -> None:
    deadline = time.monotonic() + stage.patience_s
    while len(running.facts["locked"].rows) < count:
        assert time.monotonic() < deadline, f"it never happened: {running.driver['locked'].problem}"
        await asyncio.sleep(0.05)


ASSERTIONS: Mapping[str, Callable[[Stage], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        everything_comes_through,
        after_the_adapter_was_off,
        after_bluetoothd_restarted,
        after_bluetoothd_was_killed,
        who_wants_a_passkey_is_paired_once,
    )
}


def counts(running: Listening) -> dict[str, int]:
    return {name: len(running.facts[name].rows) for name in SENSORS}


async def all_have(running: Listening, more: int, stage: Stage, beyond: Mapping[str, int] | None = None) -> None:
    """So many rows of each sensor, beyond those there were."""
    deadline = time.monotonic() + stage.patience_s
    while any(have < (beyond or {}).get(name, 0) + more for name, have in counts(running).items()):
        assert time.monotonic() < deadline, f"it never happened: {counts(running)}; {said(running)}"
        await asyncio.sleep(0.02)


def said(running: Listening) -> dict[str, str | None]:
    parts = {task.name: task.problem() for task in running.built.tasks}
    return parts | {name: running.driver[name].problem for name in SENSORS}


def nothing_twice(facts: Facts, name: str) -> None:
    """What comes again was remembered by somebody and not measured anew."""
    numbers = facts.column(0)
    assert numbers == sorted(set(numbers)), f"{name}: {numbers}"
