"""How many generated cases a property is tried with: `make faults` tries many more than `make test`."""

from __future__ import annotations

import os


def tries(ordinary: int) -> int:
    return ordinary * int(os.environ.get("COMBOIO_EFFORT", "1"))
