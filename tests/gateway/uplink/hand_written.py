"""A box that nobody manages from afar."""

from __future__ import annotations

from pathlib import Path

from gateway.clock import Clock
from gateway.desired.desired import Desired, Pinned
from gateway.desired.state import Desk
from protos.config import GatewayConfig


def by_hand(folder: Path, clock: Clock) -> Desired:
    return Desired(
        desk=Desk(folder),
        local=GatewayConfig(config_version=1),
        pinned=lambda: Pinned(gateway="gw-aaaaaaaaaa", config_key=b""),
        check=lambda _: [],
        clock=clock,
    )
