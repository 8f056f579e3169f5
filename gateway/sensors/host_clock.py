"""How right the system's clock is: by chronyd's own word where it runs, else by the kernel's, else by timesyncd's.

The kernel knows of every daemon that steers it (systemd-timesyncd, ntpd, chronyd with rtcsync), but not every unit lets
its program ask. chronyd is asked by its monitoring protocol (candm.h, version 6): one datagram to the
loopback address, one back. systemd-timesyncd leaves a file where it set the clock.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from gateway import kernel_clock
from gateway.sensors.host_facts import Fact

CHRONY = ("127.0.0.1", 323)
TIMESYNC = Path("/run/systemd/timesync")
WITHIN_S = 0.2
_REQUEST = struct.Struct(">BBBBHHIII")
_TRACKING = 33
_VERSION = 6
_REPLY_BYTES = 28 + 76
UNSYNCHRONISED = 3
"""Of a leap status."""


class ClockFacts:
    """Asks chronyd until it was not there once, then the kernel alone for as long as `again` calls."""

    def __init__(self, *, chrony: tuple[str, int] = CHRONY, again: int = 60) -> None:
        self._chrony = chrony
        self._again = again
        self._rest = 0

    def __call__(self) -> Mapping[str, Fact]:
        """In seconds. Blocks for WITHIN_S at most; never raises."""
        if self._rest > 0:
            self._rest -= 1
            return by_kernel() or by_timesyncd()
        found = by_chrony(self._chrony)
        if found is None:
            self._rest = self._again
            return by_kernel() or by_timesyncd()
        return found


def by_kernel() -> dict[str, Fact]:
    told = kernel_clock.ask()
    if told is None:
        return {}
    found: dict[str, Fact] = {"clock.synchronised": told.synchronised, "clock.source": "kernel"}
    if told.synchronised:
        found |= {"clock.offset": told.offset_s, "clock.error_most": told.error_most_s}
    return found


def by_timesyncd(folder: Path = TIMESYNC) -> dict[str, Fact]:
    """Nothing where it does not run (systemd-timesyncd.service(8), FILES)."""
    if not folder.is_dir():
        return {}
    return {"clock.synchronised": (folder / "synchronized").exists(), "clock.source": "timesyncd"}


def by_chrony(address: tuple[str, int]) -> dict[str, Fact] | None:
    """None when nobody answers there, or something else does."""
    request = _REQUEST.pack(_VERSION, 1, 0, 0, _TRACKING, 0, 1, 0, 0).ljust(_REPLY_BYTES, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(WITHIN_S)
            asking.connect(address)
            asking.send(request)
            reply = asking.recv(512)
    except OSError:
        return None
    return _tracking(reply)


def _tracking(reply: bytes) -> dict[str, Fact] | None:
    if len(reply) < _REPLY_BYTES:
        return None
    version, kind, _, _, command, what, status = struct.unpack_from(">BBBBHHH", reply)
    if (version, kind, command, what, status) != (_VERSION, 2, _TRACKING, 5, 0):
        return None
    stratum, leap = struct.unpack_from(">HH", reply, 52)
    correction, *_, delay, dispersion, _ = (_float(word) for word in struct.unpack_from(">9I", reply, 68))
    synchronised = leap != UNSYNCHRONISED
    found: dict[str, Fact] = {"clock.synchronised": synchronised, "clock.source": "chrony"}
    if synchronised:
        found["clock.stratum"] = stratum
        found["clock.offset"] = correction
        found["clock.error_most"] = abs(correction) + dispersion + delay / 2
    return found


def _float(word: int) -> float:
    """Chronyd's own format: 7 bits of exponent, 25 of coefficient, both signed."""
    exponent, coefficient = word >> 25, word & 0x1FFFFFF
    exponent -= 128 if exponent >= 64 else 0
    coefficient -= 1 << 25 if coefficient >= 1 << 24 else 0
    return math.ldexp(coefficient, exponent - 25)
