"""comboio health, join-token, readings, events, gaps, completeness, ledger."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from control_plane.console import deliveries, export, recorded
from control_plane.console.client import Client
from control_plane.console.commands import Commands, asking, filters, path
from control_plane.console.profile import UsageError
from control_plane.console.show import rows, sheet
from control_plane.console.table import table

EVENTS = rows(("time", "event", "subject", "finality", "id"), of=lambda one: {**one, "event": short(one["type"])})
VERSIONS = rows(("version", "change", "finality", "recorded", "data"))
GAPS = rows(("gateway", "sensor", "reason", "count", "count_exact", "recorded"))
LEDGER = rows(("hour", "sensor", "received", "lost", "why"), of=lambda one: {**one, **_account(one)})
JOIN_TOKENS = rows(("id", "gateway_name", "asset", "state", "expires", "used_by"))
VALUE_NAMES = ("values", "quality", "min", "max", "mean", "last", "count")
EVERYTHING = 100_000


def add(commands: Commands) -> None:
    commands.command("health", lambda client, _: client.get("/health/detail"), _show_health, "stores and roles")
    join = commands.command("join-token", _join_token, _show_join_token, "a token for a new gateway, or --list")
    join.add_argument("--name", help="the gateway's name")
    join.add_argument("--asset", help="what it will be mounted on")
    join.add_argument("--ttl-s", type=int, default=86_400)
    join.add_argument("--list", action="store_true", help="show the tokens made so far")
    readings = commands.command("readings", _readings, _show_readings, "readings of series, or an export of them")
    readings.add_argument("series", nargs="+", help="gateway/sensor/quantity; before them, export for a file")
    readings.add_argument("--from", dest="start", help="RFC 3339")
    readings.add_argument("--to", dest="end", help="RFC 3339")
    readings.add_argument("--max-points", type=int)
    export.add(readings)
    gaps = commands.command("gaps", asking("/gaps", "gateway", "sensor"), GAPS, "what was lost and accounted for")
    filters(gaps, "gateway", "sensor")
    recorded.add(commands)
    ledger = commands.command("ledger", _ledger, LEDGER, "what a gateway delivered and lost, hour by hour")
    ledger.add_argument("gateway")
    ledger.add_argument("--sensor", help="a sensor, or sensor/quantity")
    ledger.add_argument("--from", dest="start", help="RFC 3339")
    ledger.add_argument("--to", dest="end", help="RFC 3339")
    ledger.add_argument("--limit", type=int, default=100, help="rows at most; default 100")
    _add_events(commands)
    deliveries.add(commands)


def _add_events(commands: Commands) -> None:
    ask = asking("/events", "type", "subject", "gateway", "finality", "current")

    def asks(command: argparse.ArgumentParser) -> None:
        filters(command, "type", "subject", "gateway", "finality")
        current = "newest versions only"
        command.add_argument("--current", action="store_const", const=True, default=argparse.SUPPRESS, help=current)

    around = commands.family("events", "business events, newest first", run=ask, show=EVENTS, asks=asks)
    one = around("show", lambda c, o: c.get(path("events", o.id)), sheet, "one version of an event")
    versions = around("versions", lambda c, o: c.get(path("events", o.id, "versions")), VERSIONS, "its whole life")
    for command in (one, versions):
        command.add_argument("id")


def _join_token(client: Client, options: Any) -> Any:
    if options.list:
        return client.listed("/join-tokens", limit=EVERYTHING)
    if not options.name:
        raise UsageError("join-token needs --name NAME, or --list")
    return client.post("/join-tokens", {"gateway_name": options.name, "asset": options.asset, "ttl_s": options.ttl_s})


def _ledger(client: Client, options: Any) -> Any:
    asked = {"gateway": options.gateway, "sensor": options.sensor, "from": options.start, "to": options.end}
    return client.listed("/ledger", limit=options.limit, **asked)


def _readings(client: Client, options: Any) -> Any:
    if options.series[0] == export.WORD:
        return export.export(client, options)
    asked = {"from": options.start, "to": options.end, "max_points": options.max_points}
    return client.get("/readings", series=options.series, **asked)


# --- printing ----------------------------------------------------------------------------------------


def short(event_type: str) -> str:
    """Without the prefix and the version that all of them have."""
    return event_type.removeprefix("comboio.").rpartition(".v")[0] or event_type


def _account(one: Any) -> dict[str, Any]:
    """An hour nobody can place is named by its boot; what nobody could count is a question mark."""
    lost = one["lost"]
    unknown = any(some["unknown"] for some in lost)
    why = [f"{some['reason']} {some['rows'] or ''}{'?' if some['unknown'] else ''}" for some in lost]
    return {
        "hour": one["from"] or f"boot {one['boot']}, hour {one['hour']}",
        "sensor": one["sensor"] or "(every sensor)",
        "lost": f"{sum(some['rows'] for some in lost)}{'+?' if unknown else ''}",
        "why": ", ".join(why),
    }


def _show_health(answer: Any) -> None:
    print(f"status {answer['status']}")
    print(table(("store", "ok", "took_ms", "error"), [{"store": n} | s for n, s in answer["stores"].items()]))
    if answer["roles"]:
        print(table(("role", "pid"), [{"role": role, "pid": pid} for role, pid in answer["roles"].items()]))


def _show_join_token(answer: Any) -> None:
    if "items" in answer:
        JOIN_TOKENS(answer)
    else:
        print(answer["token"])


def _show_readings(answer: Any) -> None:
    if answer is not None and "series" in answer:
        show_readings(answer)
    elif answer is not None:
        print(f"{answer['file']}: {answer['bytes']} bytes")


def show_readings(answer: Any) -> None:
    """Per series a heading and its rows, with gaps where they lie."""
    for series in answer["series"]:
        share = f"{series['coverage']:.1%} of the expected readings"
        clock = f"clock error up to {series['clock_err_ms']} ms"
        print(f"{series['key']}  [{series['unit'] or 'no unit'}]  {answer['resolution']}, {share}, {clock}")
        names = [name for name in VALUE_NAMES if name in series]
        found = [
            {"time": _moment(at), **{name: series[name][i] for name in names}} | {"at": at}
            for i, at in enumerate(series["times_ms"])
        ]
        found += [
            {"time": _moment(gap["from_ms"]), names[-1]: _gap_text(gap), "at": gap["from_ms"]}
            for gap in answer["gaps"]
            if gap["series"] == series["key"] and names
        ]
        found.sort(key=lambda row: row["at"])
        print(table(("time", *names), found) if found else "No readings in this time.")
        if answer.get("not_kept_before"):
            print(f"What came before {answer['not_kept_before']} is not kept any more at this resolution.")
        print()


def _gap_text(gap: Any) -> str:
    return f"gap of {(gap['to_ms'] - gap['from_ms']) / 1000:.1f} s: {gap['reason']}"


def _moment(at_ms: int) -> str:
    """Local time to the millisecond, as the clock on the wall shows it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
