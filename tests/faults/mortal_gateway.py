"""comboio-gateway that kills itself (SIGKILL) right after a chosen transition of its configuration became durable.

python -m tests.faults.mortal_gateway PHASE run --config … : PHASE as it stands in state.json, or as it was said last.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from gateway.cli import main
from gateway.desired.state import Desk, State
from protos.comboio.v1 import link_pb2 as wire


def phases(state: State) -> set[str]:
    """What is durable now: the phases of what is on its way, and the end of what was."""
    found: set[str] = {one.phase for one in (state.waiting, state.trial) if one is not None}
    if not found and state.last is not None:
        found = {wire.ConfigPhase.Name(wire.ConfigPhase.ValueType(state.last.phase)).removeprefix("CONFIG_").lower()}
    return found


def mortal(phase: str) -> None:
    before = Desk.change

    def change(desk: Desk, by: Any) -> None:
        known = phases(desk.state)
        before(desk, by)
        if phase in phases(desk.state) - known:
            os.kill(os.getpid(), signal.SIGKILL)

    Desk.change = change  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    mortal(sys.argv[1])
    raise SystemExit(main(sys.argv[2:]))
