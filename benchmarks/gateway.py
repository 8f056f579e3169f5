"""gateway.*: what the daemon costs and delivers.

The daemon runs as its users run it (own process, default settings, mutual TLS to a real ingest on SQLite); devices are
simulated in a process of their own; what is counted is what the control plane's journal holds, and every value of it
is checked against the counting formula. CPU is user + system of the gateway's process alone, from /proc.

    python -m benchmarks.gateway --seconds 180 --every-ms 10       a longer run, other rates
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.gateway_ble import figures as ble
from benchmarks.gateway_full import full
from benchmarks.gateway_mqtt import figures as mqtt
from benchmarks.gateway_outage import figures as outage
from benchmarks.gateway_power import power
from benchmarks.gateway_rig import Fleet, Rig, Site, Watch, rig, rss_mb, written
from benchmarks.gateway_serial import serial
from benchmarks.gateway_sparse import figures as sparse
from benchmarks.gateway_storage import storage
from benchmarks.recordings import folder

LARGE, SMALL = "comboio-counter@1", "comboio-counter-10@1"
DAY_S = 86_400
WARM_UP_S = 5.0
STARTS = 3


def figures(*, seconds: float = 30.0, every_ms: float = 20.0) -> Iterator[Figure]:
    yield from sparse()
    with rig() as running:
        yield from load(running, seconds=seconds, every_ms=every_ms)
        yield from asked(running, seconds=seconds / 2)
        yield from idle(running, seconds=seconds)
        yield from starts(running)
        yield from full(running, seconds=seconds, every_ms=every_ms)
    yield from storage(folder())
    yield from power()
    yield from outage()
    yield from serial()
    yield from mqtt()
    yield from ble()


def load(running: Rig, *, seconds: float, every_ms: float) -> Iterator[Figure]:
    """10 devices × 100 registers, from the arrival of one batch to that of another."""
    site = running.site(Fleet(devices=10, profile=LARGE, every_s=every_ms / 1000))
    site.gateway.start()
    time.sleep(WARM_UP_S)
    first = site.far_end.next_arrival(after=site.far_end.next_arrival().id)
    watch = Watch(site.gateway.pid, site.devices.pid, running.control_plane_cpu_s)
    began_mb = rss_mb(site.gateway.pid)
    time.sleep(max(0.0, seconds - 2.0))
    last = site.far_end.next_arrival(after=site.far_end.next_arrival().id)
    spell, ended_mb = watch.spell(), rss_mb(site.gateway.pid)
    readings = site.far_end.readings(after=first.id, to=last.id)
    shares = zip(("gateway", "devices", "control"), spell.cpu, strict=True)
    cpu = ", ".join(f"{who} {spent / spell.seconds:.0%}" for who, spent in shares)
    remark = f"{readings / spell.seconds:.0f}/s, {_checked(site)}, CPU: {cpu}"
    yield Figure("gateway.readings_per_cpu_s", readings / spell.cpu[0], "1/s", remark)
    grown = f"{began_mb:.1f} MB {spell.seconds:.0f} s before; Modbus and uplink only"
    yield Figure("gateway.rss_modbus", ended_mb, "MB", f"under that load, {grown}")


def asked(running: Rig, *, seconds: float) -> Iterator[Figure]:
    """40 devices × 100 registers at 100 ms, over the life of the gateway."""
    fleet = Fleet(devices=40, profile=LARGE, every_s=0.1)
    site = running.site(fleet)
    site.gateway.start()
    time.sleep(WARM_UP_S)
    first = site.far_end.next_arrival(after=site.far_end.next_arrival().id)
    watch = Watch(site.gateway.pid)
    time.sleep(max(0.0, seconds - 1.0))
    last = site.far_end.next_arrival(after=site.far_end.next_arrival().id)
    spell = watch.spell()
    readings = site.far_end.readings(after=first.id, to=last.id)
    wanted = (last.at_s - first.at_s) / fleet.every_s * fleet.devices * 100
    remark = f"{_checked(site)}, gateway {spell.cpu[0] / spell.seconds:.0%} of a core"
    yield Figure("gateway.asked_delivered", min(100.0, 100 * readings / wanted), "%", remark)


def idle(running: Rig, *, seconds: float) -> Iterator[Figure]:
    """10 devices × 10 registers at 1 s."""
    site = running.site(Fleet(devices=10, profile=SMALL, every_s=1.0))
    site.gateway.start()
    time.sleep(2 * WARM_UP_S)
    before, watch = written(site.gateway.pid), Watch(site.gateway.pid)
    time.sleep(seconds)
    spell, after = watch.spell(), written(site.gateway.pid)
    daily = {name: (after[name] - before[name]) * DAY_S / spell.seconds / 1e6 for name in ("wchar", "write_bytes")}
    remark = f"100 readings/s, {daily['wchar']:.0f} MB/day to write(), {daily['write_bytes']:.0f} MB/day of dirty pages"
    yield Figure("gateway.idle_cpu", 100 * spell.cpu[0] / spell.seconds, "% of a core", remark)
    _checked(site)


def starts(running: Rig) -> Iterator[Figure]:
    """From exec to the first answer heard from a device, and to the first batch in the journal; no backlog."""
    site = running.site(Fleet(devices=10, profile=SMALL, every_s=1.0))
    read, delivered = [], []
    for _ in range(STARTS):
        known = site.reads.stat().st_size
        newest = site.far_end.newest()
        began = time.monotonic()
        site.gateway.begin()
        while site.reads.stat().st_size == known:
            time.sleep(0.002)
        read.append(time.monotonic() - began)
        delivered.append(site.far_end.next_arrival(after=newest).at_s - began)
        site.gateway.wait_ready()
        site.gateway.stop()
    _checked(site)
    yield Figure("gateway.first_reading_empty", statistics.median(read), "s", f"median of {STARTS}, no backlog")
    yield Figure("gateway.first_delivery_empty", statistics.median(delivered), "s", f"median of {STARTS}, no backlog")


def _checked(site: Site) -> str:
    """End the measurement: everything that arrived so far is right, or ValueError."""
    site.stop()
    found = site.far_end.tally(site.fleet.units)
    if found.wrong or found.doubled or found.lost:
        raise ValueError(f"{site.id}: {found.wrong} values wrong, {found.doubled} reads doubled, {found.lost} lost")
    return f"{found.readings} readings checked, 0 lost, {found.in_gaps} in gaps"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gateway", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement (default 30)")
    parser.add_argument("--every-ms", type=float, default=20.0, help="period of the loaded devices (default 20)")
    parser.add_argument("--only", choices=("load", "asked", "idle", "starts", "full", "storage", "outage", "serial"))
    told = parser.parse_args()
    for figure in _some(told.only, seconds=told.seconds, every_ms=told.every_ms):
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


def _some(only: str | None, *, seconds: float, every_ms: float) -> Iterator[Figure]:
    if only is None:
        yield from figures(seconds=seconds, every_ms=every_ms)
        return
    if only == "storage":
        yield from storage(folder())
        return
    if only in {"outage", "serial"}:
        yield from outage() if only == "outage" else serial(seconds=seconds)
        return
    with rig() as running:
        made = {
            "load": lambda: load(running, seconds=seconds, every_ms=every_ms),
            "asked": lambda: asked(running, seconds=seconds),
            "idle": lambda: idle(running, seconds=seconds),
            "starts": lambda: starts(running),
            "full": lambda: full(running, seconds=seconds, every_ms=every_ms),
        }
        yield from made[only]()


if __name__ == "__main__":
    main()
