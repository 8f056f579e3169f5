"""`make demo`: the whole road on one machine. `make demo ONCE=1`: 60 s with faults, then a balance read by read.

A refrigerated truck and a warehouse send real Modbus TCP readings over mutual TLS; a door left open warms the truck's
load; its link is cut, its gateway and the control plane's ingest are killed with SIGKILL; an ERP stand-in must be told
of the excursion exactly once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from control_plane.simulators import expected
from control_plane.simulators.balance import Account, answered
from control_plane.simulators.processes import StartError
from control_plane.simulators.scenario import Box, Device, Installation, say

FOLDER = Path(".demo")
SECONDS = 60
RULE = expected.Rule(high=8.0, hysteresis=0.5, open_after_ms=4000, close_after_ms=3000)
SLACK_MS = 1000  # two reads of the cooling unit
SETTINGS = """\
[ingest]
batch_interval_s = 1.0

[[rules.cold_chain]]
name = "demo"
low = 2.0
high = 8.0
hysteresis = 0.5
open_after_s = 4.0
close_after_s = 3.0
hold_max_s = 60.0
"""
# Seconds since the truck's probe was switched on → °C. One excursion in the first minute, then one every five.
COLD_BOX = ((0, 4.0), (10, 4.1), (15, 12.0), (30, 11.0), (34, 5.0), (40, 4.0), (280, 4.2), (300, 4.0))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="The whole road on this machine.")
    parser.add_argument("--once", action="store_true", help="60 s with faults, then a balance; exit status says it all")
    parser.add_argument("--keep", action="store_true", help="keep what an earlier demo stored")
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if FOLDER.exists() and not args.keep:
        shutil.rmtree(FOLDER)
    FOLDER.mkdir(exist_ok=True)
    try:
        with Installation(FOLDER.absolute(), settings=SETTINGS) as here:
            truck = _begin(here)
            return _once(here, truck, stop) if args.once else _stay(here, stop)
    except StartError as error:
        say(f"The demo could not start: {error}")
        return 1


def _begin(here: Installation) -> Box:
    began = time.monotonic()
    say("Starting the control plane and an ERP stand-in …")
    here.start()
    curve = FOLDER / "cold-box.csv"
    curve.write_text("ts_ms,air\n" + "".join(f"{at_ms},{value:.2f}\n" for at_ms, value in _curve()))
    truck = Box(
        "truck-17",
        (
            Device(
                sensor="cooling",
                profile="xy-md02@1",
                every_s=0.5,
                signals=(f"temperature={curve.absolute()}:air",),
                asset="truck-17/box",
                cargo="temperature",
            ),
            Device(sensor="counter", profile="comboio-counter@1", every_s=0.5, counting=True),
        ),
        batch_interval_s=1.0,
    )
    warehouse = Box(
        "warehouse-2",
        (
            Device(sensor="meter", profile="eastron-sdm120@1", every_s=1.0, signals=_recorded(), asset="warehouse-2"),
            Device(sensor="hall", profile="vaisala-hmdw110@1", every_s=1.0, asset="warehouse-2/hall"),
        ),
        batch_interval_s=1.0,
    )
    say("Enrolling two gateways: truck-17 (refrigerated) and warehouse-2 …")
    for box in (truck, warehouse):
        here.add(box)
    say(f"Ready after {time.monotonic() - began:.1f} s.")
    return truck


def _recorded() -> tuple[str, ...]:
    """The meter replays a recording where there is one."""
    folder = os.environ.get("COMBOIO_DATA")
    recording = Path(folder) / "household_power.csv.gz" if folder else None
    if recording is None or not recording.exists():
        say("COMBOIO_DATA is not set: the meter's values are generated.")
        return ()
    return (f"voltage={recording}:Voltage", f"current={recording}:Global_intensity")


def _curve() -> list[tuple[int, float]]:
    """The cold box's air every 250 ms, straight between the corners, with a thermostat's ripple."""
    points = []
    for quarter in range(COLD_BOX[-1][0] * 4):
        at_s = quarter / 4
        after = next(i for i, (corner_s, _) in enumerate(COLD_BOX) if corner_s > at_s)
        (t0, v0), (t1, v1) = COLD_BOX[after - 1], COLD_BOX[after]
        points.append((round(at_s * 1000), v0 + (v1 - v0) * (at_s - t0) / (t1 - t0) + 0.1 * ((quarter % 7) - 3) / 3))
    return points


# --- once ------------------------------------------------------------------------------------------------


def _once(here: Installation, truck: Box, stop: threading.Event) -> int:
    plan: list[tuple[float, str, Callable[[], object]]] = [
        (10, "the truck's door stays open: its load warms up", lambda: None),
        (11, "the ERP will lose the reply to the next request", lambda: here.behave(fail="after_commit", **{"for": 1})),
        (13, "the truck's link is cut", lambda: here.link(truck, "cut")),
        (20, "SIGKILL for the truck's gateway, offline", lambda: here.kill_gateway(truck)),
        (21, "… and it starts again, as systemd would do", lambda: here.revive(truck)),
        (28, "the link is back", lambda: here.link(truck, "restore")),
        (40, "SIGKILL for ingest; its supervisor starts it again", lambda: here.kill_role("ingest")),
        (SECONDS - 6, "the devices fall silent; what is on the way arrives", here.stop_devices),
    ]
    began = time.monotonic()
    for at_s, text, act in plan:
        if stop.wait(max(0.0, began + at_s - time.monotonic())):
            say("Stopped.")
            return 130
        say(f"{at_s:>4.0f} s  {text}")
        act()
    accounts = here.settle(timeout_s=25)
    verdict = _verdict(here, truck, deadline_s=25)
    report(accounts, verdict)
    return 0 if all(one.balanced for one in accounts) and not verdict.problems else 1


def _verdict(here: Installation, truck: Box, *, deadline_s: float) -> expected.Verdict:
    """Ask until the ERP holds what it must, or time is up."""
    (reads,) = answered(FOLDER / "truck-17-cooling.reads", "xy-md02@1", 1).items()
    want = expected.excursions(RULE, reads[1], reads[0].index("temperature"), slack_ms=SLACK_MS)
    end = time.monotonic() + deadline_s
    while True:
        events = here.get("/events", limit=1000)["items"]
        deliveries = here.get("/deliveries", limit=1000)["items"]
        verdict = expected.judge(want, events, deliveries, here.received())
        if not want.sure:
            verdict.problems.append("the load never got warm: nothing was tested")
        if not truck.kills_ms:
            verdict.problems.append("no gateway was killed: nothing was tested")
        if not verdict.problems or time.monotonic() > end:
            return verdict
        time.sleep(1.0)


def report(accounts: list[Account], verdict: expected.Verdict) -> None:
    """One table a tired person can read."""
    say("")
    say(f"{'sensor':<24}{'reads':>8}  ={'delivered':>11}  +{'in gaps':>9}   {'':<10}")
    say("─" * 72)
    for one in accounts:
        said = "balanced" if one.balanced else "DOES NOT BALANCE"
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(one.gap_reasons.items()))
        say(f"{one.sensor:<24}{one.produced:>8}  ={one.delivered:>11}  +{one.in_gaps:>9}   {said}  {reasons}".rstrip())
        for text, times in (("lost without a trace", one.missing), ("never answered by the device", one.invented)):
            if times:
                say(f"    {len(times)} {text}, first at {time.strftime('%H:%M:%S', time.localtime(times[0] / 1000))}")
    say("")
    say(
        f"cold-chain excursions: {len(verdict.expected.sure)} happened; {verdict.made} final events made, "
        f"{verdict.delivered} delivered in {verdict.requests} requests, {verdict.effects} took effect at the ERP"
    )
    for problem in verdict.problems:
        say(f"    PROBLEM: {problem}")
    good = all(one.balanced for one in accounts) and not verdict.problems
    say("")
    say("Everything balances: nothing lost, nothing doubled, nothing invented." if good else "It does NOT balance.")


# --- stay ------------------------------------------------------------------------------------------------


def _stay(here: Installation, stop: threading.Event) -> int:
    python = Path(sys.executable).parent
    truck = here.boxes[0]
    assert truck.process is not None
    assert truck.link is not None
    say("")
    say(f"  REST       {here.said['http']}/api/v1   (Authorization: Bearer {here.token})")
    if here.said.get("admin_password"):
        say(f"  login      admin / {here.said['admin_password']}")
    say("")
    say("Things to try, each in another terminal:")
    say("")
    say(f"  export COMBOIO_SERVER={here.said['http']} COMBOIO_TOKEN={here.token}")
    say(f"  {python}/comboio gateways")
    say(f"  {python}/comboio readings {truck.id}/cooling/temperature")
    say(f"  {python}/comboio events          # the load warms up every five minutes")
    say(f"  {python}/comboio deliveries")
    say(f"  {python}/comboio-gateway buffer --data-dir {here.folder / truck.name}")
    say(f"  kill -9 {truck.process.pid}                # the truck's gateway; it comes back, with a gap record")
    say(f"  kill -9 {here.pids()['ingest']}                # ingest; its supervisor starts it again")
    say(f"  echo cut | nc -N 127.0.0.1 {truck.link.said['control_port']}      # and later: restore")
    say("")
    say("Ctrl-C ends everything.")
    while not stop.wait(1.0):
        for box in here.boxes:
            if box.process is not None and not box.process.alive:
                say(f"{box.name} ended; starting it again, as systemd would do")
                here.revive(box)
    say("Stopping …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
