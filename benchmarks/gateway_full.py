"""gateway.rss: one daemon with everything switched on, under load: Modbus, Bluetooth, MQTT, uplink, its own page.

The devices are those of `gateway.rss_modbus`; beside them ten Bluetooth probes and ten MQTT sensors send once a second,
and somebody signed in looks at the page as its script does, every two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import httpx

from benchmarks.figures import Figure
from benchmarks.gateway_rig import Rig, Watch, rss_mb
from control_plane.simulators.scenario import Box
from control_plane.simulators.sources import Device, Message, Probe

EACH = 10
PIN = "482913"
LOOK_EVERY_S = 2.0
WARM_UP_S = 10.0


def full(running: Rig, *, seconds: float, every_ms: float) -> Iterator[Figure]:
    """Nothing without dbus-daemon and mosquitto: a smaller gateway must not go by this name."""
    if not running.has_all_sensors:
        return
    devices = _devices(every_ms)
    box = Box("gateway-full", devices=devices, probes=_probes(), messages=_messages(), pin=PIN)
    far_end = running.add(box)
    assert box.process is not None
    with httpx.Client(base_url=f"http://{box.page['listen']}", trust_env=False, timeout=10) as visitor:
        _sign_in(visitor)
        _look(visitor, WARM_UP_S)
        watch, began_mb = Watch(box.process.pid), rss_mb(box.process.pid)
        _look(visitor, seconds)
        spell, ended_mb = watch.spell(), rss_mb(box.process.pid)
        picture = visitor.get("/api/now").raise_for_status().json()
    box.process.stop()
    red = [line for line in picture["red"] if not line.startswith("identity")]
    unheard = [one["id"] for one in picture["sensors"] if not one["heard"]]
    if red or unheard or len(picture["sensors"]) != 3 * EACH:
        raise ValueError(f"not everything worked while it was measured: {red}, never heard: {unheard}")
    found = far_end.tally({one.sensor: one.unit for one in devices})
    if found.wrong or found.doubled or found.lost:
        raise ValueError(f"{box.id}: {found.wrong} values wrong, {found.doubled} reads doubled, {found.lost} lost")
    sensors = f"{EACH} devices × 100 registers at {every_ms:.0f} ms, {EACH} BLE, {EACH} MQTT, page looked at"
    cpu = f"CPU {spell.cpu[0] / spell.seconds:.0%}, {found.readings} readings, those of Modbus checked, 0 lost"
    yield Figure("gateway.rss", ended_mb, "MB", f"{sensors}; {began_mb:.1f} MB {seconds:.0f} s before; {cpu}")


def _devices(every_ms: float) -> Sequence[Device]:
    profile, every_s = "comboio-counter@1", every_ms / 1000
    return [
        Device(sensor=f"device-{unit}", profile=profile, every_s=every_s, unit=unit, counting=True)
        for unit in range(1, EACH + 1)
    ]


def _probes() -> Sequence[Probe]:
    wave = {"mean": 4.0, "amplitude": 1.0, "period_s": 90, "noise": 0.05}
    return [
        Probe(sensor=f"probe-{number}", address=f"D4:12:43:55:AA:{number:02X}", signal={"temperature": wave})
        for number in range(EACH)
    ]


def _messages() -> Sequence[Message]:
    waves = {"temperature": ("/temperature", 2, {"mean": 17.5, "amplitude": 1.5, "period_s": 200, "noise": 0.02})}
    values = {"temperature": ("/temperature", "Cel", 2)}
    return [
        Message(sensor=f"climate-{number}", topic=f"climate/{number}", values=values, waves=waves)
        for number in range(EACH)
    ]


def _sign_in(visitor: httpx.Client) -> None:
    answer = visitor.post("/login", data={"pin": PIN})
    if answer.status_code != httpx.codes.SEE_OTHER:
        raise ValueError(f"the page did not let us in: {answer.status_code}")


def _look(visitor: httpx.Client, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in ("/", "/link", "/box"):
            visitor.get(path, params={"live": ""}).raise_for_status()
        time.sleep(LOOK_EVERY_S)
