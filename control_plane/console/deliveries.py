"""comboio deliveries, destinations, replay: what was sent where, and what a person does about it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from control_plane.console.client import Client
from control_plane.console.commands import Commands, asking, filters, path
from control_plane.console.profile import UsageError
from control_plane.console.show import rows, said, sheet

DELIVERIES = rows(("id", "state", "key", "delivered", "last_error"))
DESTINATIONS = rows(("name", "kind", "state", "until", "host", "open", "oldest_open", "why"))
STATE = said("{id} is {state}.")


def add(commands: Commands) -> None:
    _add_deliveries(commands)
    _add_destinations(commands)


def _add_deliveries(commands: Commands) -> None:
    def asks(command: argparse.ArgumentParser) -> None:
        filters(command, "state", "dest", "event-id")

    ask = asking("/deliveries", "state", "dest", "event_id")
    around = commands.family("deliveries", "what was or is to be sent where", run=ask, show=DELIVERIES, asks=asks)
    one = around("show", lambda c, o: c.get(path("deliveries", o.id)), sheet, "one, with its attempts and acts")
    skip = around("skip", _skip, STATE, "give one up that waits or is parked, so that its key goes on")
    fix = around("fix", _fix, STATE, "send one that waits or is parked with other data, under its id")
    again = commands.command("replay", _replay, STATE, "offer a delivery again, under the same id")
    for command in (one, skip, fix, again):
        command.add_argument("id", help="destination:event")
    for command in (skip, fix):
        command.add_argument("--reason", required=True, help="kept with the act")
    fix.add_argument("--data", required=True, help="a file with a JSON object, or - for standard input")


def _add_destinations(commands: Commands) -> None:
    around = commands.family(
        "destinations", "where events go, and how that goes", run=asking("/destinations"), show=DESTINATIONS
    )
    one = around("show", lambda c, o: c.get(path("destinations", o.name)), sheet, "one destination")
    resume = around("resume", _resume, said("{deliveries} deliveries are due now."), "try what waits there now")
    resume.add_argument("--parked", action="store_true", help="what was given up, too")
    told = said("{deliveries} deliveries are offered again, or would be.")
    again = around("replay", _replay_since, told, "offer everything again since a moment; what is there is not sent")
    again.add_argument("--since", required=True, help="RFC 3339")
    again.add_argument("--types", nargs="*", default=[], help="event types; none = all")
    again.add_argument("--dry-run", action="store_true", help="only count")
    switch = around("cutover", _cut_over, said("{keys} are delivered from now on."), "deliver keys in shadow mode")
    switch.add_argument("--key", nargs="*", default=[], help="subjects")
    switch.add_argument("--all", action="store_true", help="every subject")
    for command in (again, switch):
        command.add_argument("--reason", required=True, help="kept with the act")
    for command in (one, resume, again, switch):
        command.add_argument("name")


def _replay(client: Client, options: Any) -> Any:
    return client.post(path("deliveries", options.id, "replay"), None)


def _skip(client: Client, options: Any) -> Any:
    return client.post(path("deliveries", options.id, "skip"), {"reason": options.reason})


def _fix(client: Client, options: Any) -> Any:
    try:
        text = sys.stdin.read() if options.data == "-" else Path(options.data).read_text(encoding="utf-8")
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--data: {error}") from None
    if not isinstance(data, dict):
        raise UsageError("--data: must be a JSON object")
    return client.post(path("deliveries", options.id, "fix"), {"reason": options.reason, "data": data})


def _resume(client: Client, options: Any) -> Any:
    return client.post(path("destinations", options.name, "resume"), {"parked": options.parked})


def _replay_since(client: Client, options: Any) -> Any:
    asked = {"since": options.since, "types": options.types, "reason": options.reason, "dry_run": options.dry_run}
    return client.post(path("destinations", options.name, "replay"), asked)


def _cut_over(client: Client, options: Any) -> Any:
    asked = {"keys": options.key, "all": options.all, "reason": options.reason}
    return client.post(path("destinations", options.name, "cutover"), asked)
