"""Asks a device what it is: on a bus of the running daemon, or on one that nobody uses."""

from __future__ import annotations

import asyncio

from gateway.errors import Misconfigured, Retryable
from gateway.health.status import Identified
from gateway.health.table import plain
from gateway.sensors import Identify
from protos.config import GatewayConfig


async def identified(ask: Identify | None, unit: int) -> Identified:
    """Never raises."""
    if ask is None:
        return Identified(here=False)
    try:
        return Identified(said=dict(await ask(unit)))
    except Retryable as failure:
        return Identified(problem=str(failure))


def by_ourselves(config: GatewayConfig, bus: str, unit: int) -> Identified:
    """Open the bus for this one question. Raises Misconfigured when there is none of that name."""
    from gateway.sensors.modbus_link import ModbusLink  # noqa: PLC0415 - the daemon imports pymodbus only for a sensor

    options = next((one for one in config.bus if one.id == bus), None)
    if options is None:
        known = ", ".join(one.id for one in config.bus) or "none"
        raise Misconfigured(f"there is no [[bus]] {bus!r}; there is {known}")
    link = ModbusLink(options=options)

    async def ask() -> Identified:
        try:
            return await identified(link.identify, unit)
        finally:
            link.close()

    return asyncio.run(ask())


def text(bus: str, unit: int, found: Identified) -> str:
    """For a person."""
    if found.problem:
        return f"unit {unit} on {bus} says nothing of itself: {found.problem}"
    width = max(map(len, found.said), default=0)
    return (
        "\n".join(f"{name:<{width}}  {plain(value)}" for name, value in found.said.items()) or "it has nothing to say"
    )
