"""What the demo measures: two refrigerated trucks on the road, and a warehouse."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from control_plane.simulators.scenario import Box
from control_plane.simulators.sources import Device, Message, Probe

# Seconds since the truck's probe was switched on → °C. One excursion in the first minute, then one every five.
COLD_BOX = ((0, 4.0), (10, 4.1), (15, 12.0), (30, 11.0), (34, 5.0), (40, 4.0), (280, 4.2), (300, 4.0))
STEADY_BOX = ((0, 3.4), (60, 3.9), (140, 3.1), (300, 3.4))
HALL = ("dew_point=0.4", "wet_bulb_temperature=2.1", "enthalpy=13.6")
DOCK: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "temperature": ("temperature", 2, {"mean": 17.5, "amplitude": 1.5, "period_s": 200, "noise": 0.02}),
    "relative_humidity": ("humidity", 2, {"mean": 58.0, "amplitude": 4.0, "period_s": 150, "noise": 0.05}),
    "pressure": ("pressure", 1, {"mean": 1013.2, "amplitude": 1.2, "period_s": 300, "noise": 0.1}),
    "battery_level": ("battery", 0, {"kind": "constant", "mean": 87}),
    "battery_voltage": ("voltage", 0, {"kind": "constant", "mean": 2985}),
    "link_quality": ("linkquality", 0, {"mean": 120, "amplitude": 20, "period_s": 40, "noise": 3}),
}
LISBON = (38.7223, -9.1393)
PORTO = (41.1496, -8.6110)


def trucks(folder: Path, say: Callable[[str], None]) -> tuple[Box, Box]:
    track = _recording("gps_drive.csv.gz")
    say("COMBOIO_DATA is not set: routes and meter values are generated." if track is None else "Replaying recordings.")
    return (
        Box(
            "truck-17",
            asset="truck-17",
            pin="274916",
            devices=(
                _cooling(_curve(folder / "cold-box.csv", COLD_BOX), "truck-17/box"),
                Device(sensor="counter", profile="comboio-counter-10@1", every_s=0.5, counting=True),
            ),
            probes=(_tag("probe-rear", "D4:12:43:55:AA:01", 4.5, "truck-17/box"),),
            messages=(_tracker("truck-17", track or _route(folder / "route-17.csv", LISBON)),),
        ),
        Box(
            "truck-21",
            asset="truck-21",
            devices=(_cooling(_curve(folder / "steady-box.csv", STEADY_BOX), "truck-21/box"),),
            probes=(
                _tag("probe-front", "D4:12:43:55:AA:02", 3.6, "truck-21/box"),
                Probe(
                    sensor="probe-pallet",
                    address="A4:C1:38:00:11:22",
                    profile="bthome-thermometer@1",
                    format="bthome-v2",
                    every_s=2.0,
                    signal={"temperature": {"mean": 3.2, "amplitude": 0.8, "period_s": 80, "noise": 0.05}},
                    asset="truck-21/box",
                ),
            ),
            messages=(_tracker("truck-21", track or _route(folder / "route-21.csv", PORTO)),),
        ),
    )


def warehouse() -> Box:
    """Managed from the centre: its own file names no sensor."""
    meter = _recording("household_power.csv.gz")
    recorded = (f"voltage={meter}:Voltage", f"current={meter}:Global_intensity") if meter else ()
    return Box(
        "warehouse-2",
        asset="warehouse-2",
        managed=True,
        devices=(
            Device(sensor="meter", profile="eastron-sdm120@1", signals=recorded, asset="warehouse-2"),
            Device(sensor="hall", profile="vaisala-hmdw110@1", signals=HALL, asset="warehouse-2/hall"),
        ),
    )


def climate() -> Message:
    """A Zigbee sensor as Zigbee2MQTT publishes it; one that speaks once a second, so that a minute shows something."""
    return Message(
        sensor="dock-climate",
        topic="zigbee2mqtt/dock-climate",
        profile="aqara-wsdcgq11lm@1",
        waves={name: (f"/{key}", decimals, wave) for name, (key, decimals, wave) in DOCK.items()},
        asset="warehouse-2/dock",
    )


def _cooling(curve: Path, asset: str) -> Device:
    return Device(
        sensor="cooling",
        profile="xy-md02@1",
        every_s=0.5,
        signals=(f"temperature={curve}:air",),
        asset=asset,
        cargo="temperature",
    )


def _tag(sensor: str, address: str, mean: float, asset: str) -> Probe:
    wave = {"mean": mean, "amplitude": 0.6, "period_s": 70, "noise": 0.02}
    return Probe(sensor=sensor, address=address, signal={"temperature": wave}, asset=asset)


def _tracker(truck: str, track: Path) -> Message:
    values = {
        "latitude": ("/lat", "deg", 7),
        "longitude": ("/lon", "deg", 7),
        "speed": ("/speed", "km/h", 2),
        "heading": ("/heading", "deg", 2),
    }
    columns = {"latitude": "lat", "longitude": "lon", "speed": "speed_kmh", "heading": "heading"}
    return Message(
        sensor="tracker",
        topic=f"tracker/{truck}",
        values=values,
        replays={name: f"{track}:{column}" for name, column in columns.items()},
        asset=truck,
    )


def _recording(name: str) -> Path | None:
    folder = os.environ.get("COMBOIO_DATA")
    path = Path(folder).absolute() / name if folder else None
    return path if path is not None and path.exists() else None


def _curve(path: Path, corners: Sequence[tuple[float, float]]) -> Path:
    """Air in a cold box every 250 ms, straight between the corners, with a thermostat's ripple."""
    lines = ["ts_ms,air"]
    for quarter in range(int(corners[-1][0] * 4)):
        at_s = quarter / 4
        after = next(i for i, (corner_s, _) in enumerate(corners) if corner_s > at_s)
        (t0, v0), (t1, v1) = corners[after - 1], corners[after]
        value = v0 + (v1 - v0) * (at_s - t0) / (t1 - t0) + 0.1 * ((quarter % 7) - 3) / 3
        lines.append(f"{round(at_s * 1000)},{value:.2f}")
    path.write_text("\n".join(lines) + "\n")
    return path.absolute()


def _route(path: Path, start: tuple[float, float], *, seconds: int = 900) -> Path:
    """A round trip at the speeds of a town and its motorway, one fix a second."""
    lines = ["ts_ms,lat,lon,heading,speed_kmh"]
    lat, lon = start
    for second in range(seconds):
        round_ = 2 * math.pi * second / seconds
        heading = math.degrees(round_) % 360
        speed_kmh = 55 + 30 * math.sin(3 * round_) + 4 * math.sin(40 * round_)
        lat += math.cos(round_) * speed_kmh / 3600 / 111.2
        lon += math.sin(round_) * speed_kmh / 3600 / (111.2 * math.cos(math.radians(start[0])))
        lines.append(f"{second * 1000},{lat:.7f},{lon:.7f},{heading:.2f},{speed_kmh:.2f}")
    path.write_text("\n".join(lines) + "\n")
    return path.absolute()
