"""The mixed gateway that the figures speak of: 97 series, 51.7 readings a second.

* four Modbus devices of ten registers, polled once a second on a fixed schedule with the jitter of a bus: 28 tags of
  a factory line, two counters integrated from its flows, ten columns of a vehicle's IMU and OBD;
* one GPS of seven columns at 1 Hz;
* ten Bluetooth sensors of five columns each 10 to 11.3 s: seeded slow signals with the noise of such sensors.

A recording shorter than the span runs back and forth, so that deltas change sign and order. A register keeps its last
value where the recording has a blank. Without recordings the 47 recorded columns are generated; say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from random import Random

from benchmarks.recordings import Column, Recording, numbers, read_cells

SECONDS = 45_000
UPTIME_MS = 1_036_800_000  # twelve days up
SEED = 11

GPS = ("lat", "lon", "alt", "speed_kmh", "heading", "sats", "hdop")
FLOWS = ("Machine1.RawMaterialFeederParameter.U.Actual", "Machine2.RawMaterialFeederParameter.U.Actual")

Values = list[int | float]


def mixed(folder: Path | None) -> tuple[str, list[Recording]]:
    """("mixed" or "generated", the groups)."""
    random = Random(SEED)
    if folder is not None and all((folder / f"{name}.csv.gz").exists() for name in _FILES):
        kind, (registers, gps) = "mixed", _recorded(folder)
    else:
        kind, (registers, gps) = "generated", _generated(random)
    groups = [
        Recording(f"modbus-{number}", 1000, _polled(random, phase_ms), columns)
        for number, (phase_ms, columns) in enumerate(zip((130, 380, 611, 861), registers, strict=True), start=1)
    ]
    fixes = [UPTIME_MS + second * 1000 for second in range(SECONDS)]
    groups.append(Recording("gps", 1000, fixes, gps))
    groups += [_bluetooth(random, number) for number in range(1, 11)]
    if sum(len(group.columns) for group in groups) != 97:
        raise ValueError("the mixed gateway has 97 columns")
    return kind, groups


def _polled(random: Random, phase_ms: int) -> list[int]:
    """A fixed schedule and the latency of a request."""
    start = UPTIME_MS + phase_ms
    return [start + second * 1000 + round(2 + random.gammavariate(2.0, 3.0)) for second in range(SECONDS)]


# --- recorded ---------------------------------------------------------------------------------------------

_FILES = ("factory", "vehicle_imu_obd", "gps_drive")


def _recorded(folder: Path) -> tuple[list[list[Column]], list[Column]]:
    factory, vehicle, gps = (read_cells(folder / f"{name}.csv.gz")[1] for name in _FILES)
    machine = [name for name in factory if name.startswith("Machine1.")][2:12]
    stage = [name for name in factory if name.startswith("Stage1.") and name.endswith(".Actual")][:10]
    finish = [name for part in ("Machine4.", "Machine5.") for name in [n for n in factory if n.startswith(part)][:4]]
    meter = [Column(name, _stretched(factory[name])) for name in finish]
    meter += [Column(f"total-{at}", _counter(_stretched(factory[name]))) for at, name in enumerate(FLOWS, start=1)]
    registers = [
        [Column(name, _stretched(factory[name])) for name in machine],
        [Column(name, _stretched(factory[name])) for name in stage],
        [Column(name, _stretched(texts)) for name, texts in vehicle.items()],
        meter,
    ]
    return registers, [Column(name, _stretched(gps[name])) for name in GPS]


def _stretched(texts: list[str]) -> Values:
    held, before = [], "0"
    for text in texts:
        before = text or before
        held.append(before)
    there_and_back = numbers(held)
    there_and_back += there_and_back[::-1]
    return (there_and_back * (SECONDS // len(there_and_back) + 1))[:SECONDS]


def _counter(flow_per_h: Values) -> Values:
    """A totaliser of tenths, counting a flow given per hour."""
    return [int(total) for total in accumulate(flow / 360 for flow in flow_per_h)]


# --- generated --------------------------------------------------------------------------------------------


def _generated(random: Random) -> tuple[list[list[Column]], list[Column]]:
    def walk(name: str, level: float, step: float, decimals: int) -> Column:
        values: Values = []
        for _ in range(SECONDS):
            level += random.gauss(0.0, step) if random.random() < 0.7 else 0.0
            values.append(round(level, decimals))
        return Column(name, values)

    def held(name: str, value: int) -> Column:
        return Column(name, [value] * SECONDS)

    registers = [
        [
            *(walk(f"{device}-{at}", 50.0 * at, 0.05, 2) for at in range(1, 8)),
            *(held(f"{device}-{at}", at) for at in (8, 9)),
        ]
        for device in ("machine", "stage")
    ]
    for device, columns in zip(("machine", "stage"), registers, strict=True):
        columns.append(walk(f"{device}-10", 70.0, 0.02, 1))
    imu = [Column(f"imu-{at}", [round(random.gauss(0, 0.03), 3) for _ in range(SECONDS)]) for at in range(6)]
    imu += [walk(f"obd-{at}", 700.0, 5.0, 0) for at in range(4)]
    meter = [walk(f"finish-{at}", 200.0, 0.05, 1) for at in range(8)]
    meter += [Column(f"total-{at}", _counter(walk("flow", 1240.0, 1.0, 2).values)) for at in range(2)]
    decimals = (7, 7, 1, 2, 2, 0, 2)
    gps = [walk(name, 40.0, 1e-4 if at < 2 else 0.3, decimals[at]) for at, name in enumerate(GPS)]
    return [*registers, imu, meter], gps


# --- always seeded ----------------------------------------------------------------------------------------


def _bluetooth(random: Random, number: int) -> Recording:
    times, at = [], UPTIME_MS + random.randrange(10_000)
    while at < UPTIME_MS + SECONDS * 1000:
        times.append(at)
        at += 10_000 + random.randrange(1285)

    def column(name: str, decimals: int, noise: float, signal: Callable[[float], float]) -> Column:
        exact = (signal(time / 3_600_000 + number) + random.gauss(0, noise) for time in times)
        return Column(name, [round(value, decimals) if decimals else round(value) for value in exact])

    day = math.tau / 24
    columns = [
        column("temperature", 2, 0.012, lambda hour: 4.0 + number + 3 * math.sin(day * hour) + math.sin(5 * hour) / 4),
        column("humidity", 2, 0.04, lambda hour: 55.0 - number + 8 * math.cos(day * hour) + math.cos(3 * hour)),
        column("pressure", 0, 2.0, lambda hour: 101_000 + 300 * math.sin(day * hour / 3)),
        column("battery", 0, 2.0, lambda hour: 2950 - 10 * number - hour / 24),
        column("rssi", 0, 4.0, lambda _hour: -60 - 2 * number),
    ]
    return Recording(f"ble-{number}", 10_000, times, columns)
