"""`make demo`: the whole road on this machine, with real processes, and faults on purpose.

`ONCE=1` runs a minute of it without a terminal and ends with a balance; exit status 0 only if everything balances.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from control_plane.simulators import demo_boxes, demo_console, expected
from control_plane.simulators.demo_report import report
from control_plane.simulators.processes import StartError
from control_plane.simulators.scenario import Box, Installation, say

FOLDER = Path(".demo")
PROBATION_S = 6
RULE = expected.Rule(high=8.0, hysteresis=0.5, open_after_ms=4000, close_after_ms=3000, gap_ms=8000)
SLACK_MS = 1000  # two reads of the cooling unit
FRESH_S = 1800
SETTINGS = f"""\
[ingest]
batch_interval_s = 1.0

[configuration]
probation_s = {PROBATION_S}

[rules]
hold_max_s = 60.0

[[rules.cold_chain]]
name = "demo"
low = 2.0
high = 8.0
hysteresis = 0.5
open_after_s = 4.0
close_after_s = 3.0
gap_s = 8.0
hold_max_s = 60.0
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="The whole road on this machine.")
    parser.add_argument("--once", action="store_true", help="a minute with faults, then a balance; exit status says it")
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
            scene = _begin(here)
            return Once(here, scene, stop).run() if args.once else demo_console.stay(here, scene, stop)
    except StartError as error:
        say(f"The demo could not start: {error}")
        return 1


def _begin(here: Installation) -> demo_console.Scene:
    began = time.monotonic()
    say("Starting the control plane and an ERP stand-in …")
    here.start()
    _say_first_page(here)
    truck, second = demo_boxes.trucks(FOLDER, say)
    warehouse = demo_boxes.warehouse()
    if not here.bluetooth:
        say("dbus-daemon is not installed: the Bluetooth probes are made up by the gateways themselves.")
    if not here.mqtt:
        say("mosquitto is not installed: the trackers and the dock's climate sensor are left out.")
        truck.messages = second.messages = ()
    say("Enrolling three gateways: truck-17 and truck-21 (refrigerated), warehouse-2 (configured from the centre) …")
    for box in (truck, second, warehouse):
        here.add(box)
    generation = here.push(warehouse)
    found = here.await_configuration(warehouse, "IN_SYNC", "APPLIED", "PROBATION", timeout_s=30)
    if not found["running"] or found["running"]["generation"] != generation:
        raise StartError(f"warehouse-2 did not take its configuration: {found['sentence']}")
    say(f"Ready after {time.monotonic() - began:.1f} s.")
    return demo_console.Scene(truck=truck, second=second, warehouse=warehouse)


def _say_first_page(here: Installation) -> None:
    """How long a newcomer waited, where this copy was cloned just now."""
    here.page("/login")
    cloned_s = os.environ.get("COMBOIO_CLONED", "")
    waited_s = time.time() - float(cloned_s) if cloned_s else FRESH_S
    if waited_s < FRESH_S:
        say(f"The first page is there, {waited_s:.0f} s after `git clone`.")


class Once:
    """The minute without a terminal."""

    def __init__(self, here: Installation, scene: demo_console.Scene, stop: threading.Event) -> None:
        self._here = here
        self._scene = scene
        self._stop = stop
        self._good: dict[str, Any] = {}
        self._problems: list[str] = []

    def run(self) -> int:
        here, truck = self._here, self._scene.truck
        gets = "a Zigbee sensor at its dock" if here.mqtt else "what it has"
        lose_reply = {"fail": "after_commit", "for": 1}
        plan: list[tuple[float, str, Callable[[], object]]] = [
            (2, f"a configuration is pushed: the warehouse gets {gets}", self._push_good),
            (10, "truck-17's door stays open: its load warms up", lambda: None),
            (11, "the ERP will lose the reply to the next request", lambda: here.behave(**lose_reply)),
            (13, "truck-17's link is cut", lambda: here.link(truck, "cut")),
            (20, "SIGKILL for truck-17's gateway, offline", lambda: here.kill_gateway(truck)),
            (21, "… and it starts again, as systemd would do", lambda: here.revive(truck)),
            (24, "a bad configuration is pushed: nobody answers at the hall's new address", self._push_bad),
            (28, "truck-17's link is back", lambda: here.link(truck, "restore")),
            (40, "SIGKILL for ingest; its supervisor starts it again", lambda: here.kill_role("ingest")),
            (46, "was the bad configuration undone by the warehouse alone?", self._check_undone),
            (54, "everything falls silent; what is on the way arrives", here.stop_devices),
        ]
        began = time.monotonic()
        for at_s, text, act in plan:
            if self._stop.wait(max(0.0, began + at_s - time.monotonic())):
                say("Stopped.")
                return 130
            say(f"{at_s:>4.0f} s  {text}")
            act()
        accounts = here.settle(timeout_s=25)
        verdict = self._verdict(deadline_s=25)
        verdict.problems += self._problems
        report(accounts, verdict)
        return 0 if all(one.balanced for one in accounts) and not verdict.problems else 1

    # --- configuration -----------------------------------------------------------------------------------

    def _push_good(self) -> None:
        here, warehouse = self._here, self._scene.warehouse
        wanted = here.also_publish(warehouse, replace(demo_boxes.climate())) if here.mqtt else here.push(warehouse)
        self._good = here.await_configuration(warehouse, "IN_SYNC", "APPLIED", timeout_s=PROBATION_S + 15)
        running = self._good["running"] or {}
        if running.get("generation") != wanted:
            self._problems.append(f"the pushed configuration is not in force: {self._good['sentence']}")
        say(f"        {self._good['sentence']}")

    def _push_bad(self) -> None:
        demo_console.push_bad(self._here, self._scene.warehouse)

    def _check_undone(self) -> None:
        found = self._here.await_configuration(self._scene.warehouse, "ROLLED_BACK", timeout_s=20)
        say(f"        {found['sentence']}")
        if found["state"] != "ROLLED_BACK":
            self._problems.append(f"the bad configuration was not undone: {found['state']}, {found['sentence']}")
        elif (found["running"] or {}).get("hash") != (self._good["running"] or {}).get("hash"):
            self._problems.append("after the bad configuration was undone, something else runs than before")

    # --- the far end -------------------------------------------------------------------------------------

    def _verdict(self, *, deadline_s: float) -> expected.Verdict:
        """Ask until the ERP holds what it must, or time is up."""
        here = self._here
        want = _excursions(here, self._scene.truck).also(_excursions(here, self._scene.second))
        end = time.monotonic() + deadline_s
        while True:
            events = here.get("/events", limit=1000)["items"]
            deliveries = here.get("/deliveries", limit=1000)["items"]
            verdict = expected.judge(want, events, deliveries, here.received())
            if not want.sure:
                verdict.problems.append("the load never got warm: nothing was tested")
            if not self._scene.truck.kills_ms:
                verdict.problems.append("no gateway was killed: nothing was tested")
            if verdict.requests <= verdict.effects:
                verdict.problems.append("no delivery was ever repeated: the reply that was lost tested nothing")
            if not verdict.problems or time.monotonic() > end:
                return verdict
            time.sleep(1.0)


def _excursions(here: Installation, box: Box) -> expected.Expected:
    ((quantities, reads),) = here.kept(box, "cooling").items()
    return expected.excursions(RULE, reads, quantities.index("temperature"), slack_ms=SLACK_MS)


if __name__ == "__main__":
    raise SystemExit(main())
