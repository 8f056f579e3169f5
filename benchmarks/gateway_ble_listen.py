"""A gateway's Bluetooth half and nothing else, until it is ended: arguments are PROFILE=ADDRESS, one per sensor.

Without rich, which developers' tools bring and the log then imports; no gateway has it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.reading import Lost, Row


class Nowhere:
    """Rows go there."""

    def row(self, group: int, row: Row) -> Nowhere:
        del group, row
        return self

    def lost(self, group: int, lost: Lost) -> None:
        del group, lost

    async def durable(self) -> None: ...


async def listen() -> None:
    from firmware_configs.loader import Profiles
    from gateway.clock import SystemClock
    from gateway.sensors import build
    from protos.config import from_toml

    document = ["config_version = 1"]
    for number, argument in enumerate(sys.argv[1:]):
        profile, _, address = argument.partition("=")
        document.append(f'[[sensor]]\nid = "s{number}"\ndriver = "ble"\naddress = "{address}"\nprofile = "{profile}"')
    made = build(from_toml("\n".join(document)), clock=SystemClock(), profiles=Profiles())
    running = [part.run() for part in made.tasks] + [one.driver.run(Nowhere()) for one in made.sensors]
    await asyncio.gather(*running)


if __name__ == "__main__":
    sys.modules["rich"] = None  # type: ignore[assignment]
    asyncio.run(listen())
