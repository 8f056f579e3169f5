"""What is written to a unit: one request of function 5, 6, 15, 16, 22 or 23."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_configs.budget import Request
from firmware_configs.schema import WriteFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Addresses as sent on the wire, 0-based.

    `values`: bits as 0 and 1 for 5 and 15, registers for 6, 16 and 23, and-mask and or-mask for 22.
    `read`: 23 only, the holding registers that the device reads after it wrote, in the same transaction.
    """

    function: WriteFunction
    address: int
    values: tuple[int, ...]
    read: Request | None = None
