"""What simulated sensors put into their advertisements, true to the formats' documents: the inverse of the decoders."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from gateway.simulators.waves import Wave

BTHOME = "0000fcd2-0000-1000-8000-00805f9b34fb"
RUUVI = 0x0499


@dataclass(frozen=True, slots=True)
class Quantity:
    """value = steps × step + offset; `decimals` instead of a step where the format counts in those."""

    name: str
    default: Wave
    low: int
    high: int
    step: float = 1.0
    offset: float = 0.0
    decimals: int | None = None

    def value(self, steps: int) -> float | int:
        """As the far end shows it, to the bit."""
        if self.decimals is not None:
            return steps / 10**self.decimals if self.decimals else steps
        return steps if (self.step, self.offset) == (1.0, 0.0) else steps * self.step + self.offset

    def steps(self, wave: Wave, k: int, t_s: float) -> int:
        step = self.step if self.decimals is None else 10.0**-self.decimals
        return min(max(wave.steps(k, t_s, step=step, offset=self.offset), self.low), self.high)


def _still(value: float) -> Wave:
    return Wave(kind="constant", mean=value)


BTHOME_QUANTITIES = (
    Quantity("temperature", Wave(), -(1 << 15), (1 << 15) - 1, decimals=2),
    Quantity("relative_humidity", Wave(mean=55.0), 0, 10_000, decimals=2),
    Quantity("battery_level", _still(97), 0, 100, decimals=0),
)
RUUVI_QUANTITIES = (
    Quantity("temperature", Wave(), -32767, 32767, step=0.005),
    Quantity("relative_humidity", Wave(mean=55.0), 0, 65534, step=0.0025),
    Quantity("pressure", Wave(mean=101_325.0, amplitude=300.0), 0, 65534, offset=50_000.0),
    Quantity("acceleration_x", _still(4), -32767, 32767),
    Quantity("acceleration_y", _still(-4), -32767, 32767),
    Quantity("acceleration_z", _still(1036), -32767, 32767),
    Quantity("battery_voltage", _still(2977), 0, 2046, offset=1600.0),
    Quantity("tx_power", _still(4), 0, 30, step=2.0, offset=-40.0),
    Quantity("movement_counter", _still(66), 0, 254),
)


@dataclass(frozen=True, slots=True)
class Payload:
    """Manufacturer or service data of one advertisement."""

    manufacturer: Mapping[int, bytes]
    service: Mapping[str, bytes]


def bthome(address: str, steps: Mapping[str, int], counter: int, key: bytes | None) -> Payload:
    """BTHome v2, objects 0x00 to 0x03; encrypted with a key (then `counter` has 32 bits, else 8)."""
    objects = struct.pack(
        "<BBBBBhBH",
        *(0x00, counter & 0xFF, 0x01, steps["battery_level"]),
        *(0x02, steps["temperature"], 0x03, steps["relative_humidity"]),
    )
    if key is None:
        return Payload({}, {BTHOME: b"\x40" + objects})
    count = struct.pack("<I", counter)
    nonce = bytes.fromhex(address.replace(":", "")) + b"\xd2\xfc\x41" + count
    sealed = AESCCM(key, tag_length=4).encrypt(nonce, objects, None)
    return Payload({}, {BTHOME: b"\x41" + sealed[:-4] + count + sealed[-4:]})


def ruuvi(address: str, steps: Mapping[str, int], counter: int, key: bytes | None) -> Payload:
    """RuuviTag data format 5; the sequence number never takes the value that means "none"."""
    del key
    power = steps["battery_voltage"] << 5 | steps["tx_power"]
    data = struct.pack(
        ">BhHHhhhHBH",
        5,
        *(steps["temperature"], steps["relative_humidity"], steps["pressure"]),
        *(steps["acceleration_x"], steps["acceleration_y"], steps["acceleration_z"]),
        *(power, steps["movement_counter"], counter % 0xFFFF),
    )
    return Payload({RUUVI: data + bytes.fromhex(address.replace(":", ""))}, {})


Encoder = Callable[[str, Mapping[str, int], int, bytes | None], Payload]
FORMATS: dict[str, tuple[tuple[Quantity, ...], Encoder]] = {
    "bthome-v2": (BTHOME_QUANTITIES, bthome),
    "ruuvi-rawv2": (RUUVI_QUANTITIES, ruuvi),
}
