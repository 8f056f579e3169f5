"""Faults a simulated device can be told to have, as one typed document per command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protos.strict import convert

Kind = Literal[
    "delay", "drop", "exception", "wrong_unit", "wrong_function", "half_frame", "short", "reset", "garbage",
    "wrong_check", "stuck", "unsolicited", "trickle",
]  # fmt: skip
"""stuck: the values of the last answer again · wrong_check: CRC or LRC, on TCP the transaction id · unsolicited: a
foreign frame before the answer · trickle: byte by byte, `delay_s` apart."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to do to the next `times` requests to `unit`."""

    fault: Kind
    unit: Annotated[int, Meta(ge=0, le=255)] | None = None
    """None: any unit."""
    times: Annotated[int, Meta(ge=1)] | None = None
    """None: until cleared."""
    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    """For delay and trickle."""
    code: Annotated[int, Meta(ge=1, le=255)] = 4
    """For exception."""


class Faults:
    """The faults set now; the first that fits a request is applied to it."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._faults: list[Fault] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def take(self, unit: int) -> Fault | None:
        """The fault for a request to `unit`, counted down."""
        for i, fault in enumerate(self._faults):
            if fault.unit is None or fault.unit == unit:
                if fault.times is not None and fault.times > 1:
                    self._faults[i] = msgspec.structs.replace(fault, times=fault.times - 1)
                elif fault.times == 1:
                    del self._faults[i]
                return fault
        return None

    async def command(self, line: str) -> str:
        """`{"fault": "drop", "unit": 3, "times": 5}`, `clear` or `status`; answers `ok` or the faults as JSON.

        Raises ValueError with what is wrong.
        """
        if line == "clear":
            self.clear()
        elif line == "status":
            return msgspec.json.encode(self._faults).decode()
        else:
            try:
                self.add(convert(json.loads(line), Fault))
            except json.JSONDecodeError as error:
                raise ValueError(f"a fault is a JSON object, or clear, or status ({error})") from None
        return "ok"
