"""The demo that stays: what to look at, and a few keys to hurt it with."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.simulators.scenario import Box, Installation, say, tell

NOBODY = 9  # the discard port: nobody answers there


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is in the demo."""

    truck: Box
    second: Box
    warehouse: Box


def push_bad(here: Installation, warehouse: Box) -> int:
    """A configuration by which the hall's transmitter is looked for where nobody answers. Returns its generation."""
    buses = [bus | ({"port": NOBODY} if bus["id"] == "hall" else {}) for bus in here.measured(warehouse)["bus"]]
    return here.push(warehouse, bus=buses)


def stay(here: Installation, scene: Scene, stop: threading.Event) -> int:
    """Until Ctrl-C or q. Says where to look; obeys keys where there is a terminal."""
    _say_where(here, scene)
    console = Console(here, scene)
    if sys.stdin.isatty():
        console.help()
    while not stop.is_set():
        _revive(here)
        line = _line(stop)
        if line == "q":
            break
        if line:
            console.obey(line)
    say("\nStopping …")
    return 0


class Console:
    """One letter per act."""

    def __init__(self, here: Installation, scene: Scene) -> None:
        self._here = here
        self._scene = scene
        self._cut = False
        self._acts: dict[str, tuple[str, Callable[[], str]]] = {
            "l": ("pull truck-17's link, or plug it in again", self._link),
            "k": ("kill truck-17's gateway (it starts again, as under systemd)", self._kill),
            "i": ("kill ingest at the control plane", self._ingest),
            "w": ("warm truck-17's load for 20 s", self._warm),
            "c": ("push a good configuration to the warehouse: a Zigbee sensor at its dock", self._good),
            "b": ("push a bad configuration, and watch it undo itself", self._bad),
            "e": ("let the ERP lose the reply to its next request", self._erp),
            "?": ("show these keys", lambda: ""),
        }

    def help(self) -> None:
        say("Keys, each followed by Enter:")
        for key, (text, _) in self._acts.items():
            say(f"  {key}  {text}")
        say("  q  stop everything")

    def obey(self, line: str) -> None:
        found = self._acts.get(line)
        if found is None or line == "?":
            self.help()
            return
        try:
            say(found[1]())
        except Exception as error:
            say(f"That did not work: {error}")

    def _link(self) -> str:
        self._cut = not self._cut
        self._here.link(self._scene.truck, "cut" if self._cut else "restore")
        return "truck-17 is off line; its gateway keeps everything." if self._cut else "truck-17 is back on line."

    def _kill(self) -> str:
        self._here.kill_gateway(self._scene.truck)
        return "SIGKILL. What was read in its last 250 ms is in a gap record; all else is on its disk."

    def _ingest(self) -> str:
        self._here.kill_role("ingest")
        return "SIGKILL. Its supervisor starts it again; nothing it acknowledged is lost."

    def _warm(self) -> str:
        cooling = self._scene.truck.simulators["cooling"]
        tell(cooling, '{"hold": "temperature", "value": 12.5, "for_s": 20}')
        return "12.5 °C for 20 s: an excursion opens after 4 s, and closes 3 s after it is cold again."

    def _good(self) -> str:
        from control_plane.simulators.demo_boxes import climate  # noqa: PLC0415 - only for this key

        warehouse = self._scene.warehouse
        if warehouse.messages or not self._here.mqtt:
            self._here.push(warehouse)
        else:
            self._here.also_publish(warehouse, climate())
        return self._follow()

    def _bad(self) -> str:
        push_bad(self._here, self._scene.warehouse)
        return self._follow()

    def _follow(self) -> str:
        """Say each state on the way, until it is decided."""
        said = ""
        end = time.monotonic() + 40
        while time.monotonic() < end:
            found: dict[str, Any] = self._here.configuration(self._scene.warehouse)
            if found["state"] != said:
                said = found["state"]
                say(f"  {said:<12} {found['sentence']}")
            if said in {"IN_SYNC", "APPLIED", "REJECTED", "ROLLED_BACK", "FAILED"}:
                return ""
            time.sleep(0.2)
        return "It takes long; see the warehouse's page."

    def _erp(self) -> str:
        self._here.behave(fail="after_commit", **{"for": 1})
        return "The next event takes effect there, but its answer is lost: it is sent again, and has one effect."


def _say_where(here: Installation, scene: Scene) -> None:
    python = Path(sys.executable).parent
    say("")
    say(f"  pages      {here.said['http']}/")
    if here.said.get("admin_password"):
        say(f"  login      admin / {here.said['admin_password']}")
    say(f"  REST       {here.said['http']}/api/v1   (Authorization: Bearer {here.token})")
    truck = scene.truck
    say(f"  {truck.name}   http://{truck.page['listen']}/   PIN {truck.pin}   (the box's own page, beside the truck)")
    say("")
    say("Things to try, each in another terminal:")
    say("")
    say(f"  export COMBOIO_SERVER={here.said['http']} COMBOIO_TOKEN={here.token}")
    say(f"  {python}/comboio gateways")
    say(f"  {python}/comboio gateways show {scene.truck.id}")
    say(f"  {python}/comboio readings {scene.truck.id}/cooling/temperature")
    say(f"  {python}/comboio events          # the load warms up every five minutes")
    say(f"  {python}/comboio config status")
    say(f"  {python}/comboio-gateway status --data-dir {here.folder / scene.truck.name}")
    say(f"  {python}/comboio-gateway buffer --data-dir {here.folder / scene.truck.name}")
    say("")


def _line(stop: threading.Event) -> str:
    """What was typed within half a second; empty without a terminal."""
    if not sys.stdin.isatty():
        stop.wait(0.5)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], 0.5)
    if not ready:
        return ""
    line = sys.stdin.readline()
    return line.strip().lower() if line else "q"


def _revive(here: Installation) -> None:
    """What systemd would do."""
    for box in here.boxes:
        if box.process is not None and not box.process.alive:
            here.revive(box)
