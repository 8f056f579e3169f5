"""What the kernel says of its clock: whether a time daemon steers it, and how far off it may be (adjtimex(2))."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

STA_UNSYNC, STA_NANO = 0x0040, 0x2000
TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """The head of struct timex; the rest is padding."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("padding", ctypes.c_byte * 256),
    )


class KernelClock(NamedTuple):
    synchronised: bool
    offset_s: float
    """Still to be corrected. Means nothing of a clock that nobody steers, as `error_most_s`."""
    error_most_s: float


def ask() -> KernelClock | None:
    """None where the question is forbidden, as by ProtectClock= in a unit."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    synchronised = state != TIME_ERROR and not timex.status & STA_UNSYNC
    return KernelClock(synchronised, timex.offset / (1e9 if timex.status & STA_NANO else 1e6), timex.maxerror / 1e6)
