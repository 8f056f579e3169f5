"""comboio completeness: up to when everything is here, and whether one stretch of time was recorded as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.console.client import Client
from control_plane.console.commands import Commands
from control_plane.console.profile import UsageError
from control_plane.console.show import rows
from control_plane.console.table import table

GATEWAYS = rows(("gateway", "watermark", "urgent", "telemetry", "epoch"), of=lambda one: {**one, **_lanes(one)})
WIDTH = 100


def add(commands: Commands) -> None:
    about = "up to when everything is here; with --from and --to: was all of it recorded?"
    complete = commands.command("completeness", _completeness, _show, about)
    complete.add_argument("gateway", nargs="?", help="one gateway; with a time, gateway/sensor for one sensor of it")
    complete.add_argument("--gateway", dest="named", help="the same")
    complete.add_argument("--sensor", help="a sensor, or sensor/quantity")
    complete.add_argument("--from", dest="start", help="RFC 3339")
    complete.add_argument("--to", dest="end", help="RFC 3339")
    complete.add_argument("--limit", type=int, default=100, help="rows at most; default 100")


def _completeness(client: Client, options: Any) -> Any:
    gateway, _, sensor = (options.gateway or options.named or "").partition("/")
    sensor = options.sensor or sensor
    if not options.start and not options.end:
        if sensor:
            raise UsageError("one sensor is looked at for a time: completeness GATEWAY/SENSOR --from … --to …")
        return client.listed("/completeness", limit=options.limit, gateway=gateway or None)
    if not (gateway and options.start and options.end):
        raise UsageError("a stretch of time needs its gateway and both ends: completeness GATEWAY --from … --to …")
    asked = {"gateway": gateway, "sensor": sensor or None, "from": options.start, "to": options.end}
    return client.listed("/completeness", limit=1, **asked)


def _show(answer: Any) -> None:
    accounts = [one for one in answer["items"] if one["account"] is not None]
    for one in accounts:
        _show_account(one["gateway"], one["account"])
    if not accounts:
        GATEWAYS(answer)


def _show_account(gateway: str, account: Any) -> None:
    verdict = "recorded as a whole" if account["complete"] else "NOT recorded as a whole"
    print(f"{gateway}, {account['from']} to {account['to']}: {verdict}")
    sensors = [_sensor(one) for one in account["sensors"]]
    if sensors:
        print(table(("sensor", "expected", "received", "late", "duplicate", "lost"), sensors, width=WIDTH))
    missing = [_missing(one) for one in account["missing"]]
    if missing:
        print("\nWhat is missing:")
        print(table(("reason", "sensor", "rows", "from", "to"), missing, width=WIDTH))


def _sensor(one: Mapping[str, Any]) -> dict[str, Any]:
    unknown = any(lost["unknown"] for lost in one["lost"])
    lost = f"{sum(some['rows'] for some in one['lost'])}{'+?' if unknown else ''}"
    many = {name: "?" if one[name] is None else one[name] for name in ("late", "duplicate")}
    return {**one, **many, "sensor": one["sensor"] or "(every sensor)", "lost": lost}


def _missing(one: Mapping[str, Any]) -> dict[str, Any]:
    rows = f"{one['rows'] or ''}{'' if one['rows_exact'] else '?'}"
    return {**one, "sensor": one["sensor"] or "(every sensor)", "rows": rows, "from": one["from"] or "nobody knows"}


def _lanes(one: Any) -> dict[str, Any]:
    return {lane["lane"]: f"seq {lane['seq']}" for lane in one["lanes"]}
