"""comboio: the fleet's admin command line, over the REST API only.

Exit status: 0 done, 1 refused by the server, 2 wrong usage, 3 server not reachable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from control_plane.console import config
from control_plane.console.client import Client, Refused, Unreachable
from control_plane.console.profile import UsageError, chosen
from control_plane.console.table import table

REFUSED, USAGE, UNREACHABLE = 1, 2, 3

EVENT_COLUMNS = ("time", "type", "subject", "version", "change", "finality", "id")
DELIVERY_COLUMNS = ("dest", "key", "seq", "state", "event_id", "delivered", "last_error")
GAP_COLUMNS = ("gateway", "sensor", "reason", "count", "count_exact", "recorded")
GATEWAY_COLUMNS = ("id", "name", "asset", "hardware", "created", "retired", "certificate_expires")
JOIN_TOKEN_COLUMNS = ("id", "gateway_name", "asset", "state", "expires", "used_by")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        profile = chosen(server=options.server, token=options.token, ca=options.ca)
        answer = options.run(Client(profile), options)
    except UsageError as error:
        return _said(str(error), USAGE)
    except Refused as error:
        return _said(str(error), REFUSED)
    except Unreachable as error:
        return _said(str(error), UNREACHABLE)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    else:
        options.show(answer)
    return 0


def _said(text: str, status: int) -> int:
    print(f"comboio: {text}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", help="the control plane's URL; else COMBOIO_SERVER, ~/.config/comboio/config.toml")
    common.add_argument("--token", help="API token; else COMBOIO_TOKEN, ~/.config/comboio/config.toml")
    common.add_argument("--ca", help="the fleet's CA (PEM) for https; else COMBOIO_CA, ~/.config/comboio/config.toml")
    common.add_argument("--json", action="store_true", help="the answer as JSON")
    parser = argparse.ArgumentParser(prog="comboio", description="Looks after a Comboio fleet.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Client, Any], Any], show: Callable[[Any], None], text: str) -> Any:
        added = commands.add_parser(name, parents=[common], help=text)
        added.set_defaults(run=run, show=show)
        return added

    command("health", _health, _show_health, "stores and roles")
    gateways = command("gateways", _gateways, _rows(GATEWAY_COLUMNS), "the registry")
    gateways.add_argument("id", nargs="?", help="one gateway")
    join = command("join-token", _join_token, _show_join_token, "a token for a new gateway, or --list")
    join.add_argument("--name", help="the gateway's name")
    join.add_argument("--asset", help="what it will be mounted on")
    join.add_argument("--ttl-s", type=int, default=86_400)
    join.add_argument("--list", action="store_true", help="show the tokens made so far")
    readings = command("readings", _readings, _show_readings, "readings of series")
    readings.add_argument("series", nargs="+", help="gateway/sensor/quantity")
    readings.add_argument("--from", dest="start", help="RFC 3339")
    readings.add_argument("--to", dest="end", help="RFC 3339")
    readings.add_argument("--max-points", type=int)
    events = command("events", _events, _rows(EVENT_COLUMNS), "business events, newest first")
    _filters(events, "type", "subject", "finality")
    events.add_argument("--current", action="store_true", help="newest versions only")
    deliveries = command("deliveries", _deliveries, _rows(DELIVERY_COLUMNS), "what was or is to be sent where")
    _filters(deliveries, "state", "dest", "event-id")
    gaps = command("gaps", _gaps, _rows(GAP_COLUMNS), "what was lost and accounted for")
    _filters(gaps, "gateway", "sensor")
    actions = commands.add_parser("config", help="configuration of gateways").add_subparsers(
        required=True, metavar="ACTION"
    )

    def action(name: str, run: Callable[[Client, Any], Any], show: Callable[[Any], None], text: str) -> Any:
        added = actions.add_parser(name, parents=[common], help=text)
        added.set_defaults(run=run, show=show)
        return added

    config.add(action)
    return parser


def _filters(command: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        command.add_argument(f"--{name}")
    command.add_argument("--limit", type=int, default=100, help="rows at most")


def _health(client: Client, _options: Any) -> Any:
    return client.get("/health/detail")


def _gateways(client: Client, options: Any) -> Any:
    if options.id is not None:
        return {"items": [client.get(f"/gateways/{quote(options.id, safe='')}")]}
    return client.listed("/gateways", limit=10_000)


def _join_token(client: Client, options: Any) -> Any:
    if options.list:
        return client.listed("/join-tokens", limit=10_000)
    if not options.name:
        raise UsageError("join-token needs --name NAME, or --list")
    return client.post("/join-tokens", {"gateway_name": options.name, "asset": options.asset, "ttl_s": options.ttl_s})


def _readings(client: Client, options: Any) -> Any:
    asked = {"from": options.start, "to": options.end, "max_points": options.max_points}
    return client.get("/readings", series=options.series, **asked)


def _events(client: Client, options: Any) -> Any:
    asked = {"type": options.type, "subject": options.subject, "finality": options.finality}
    return client.listed("/events", limit=options.limit, current=True if options.current else None, **asked)


def _deliveries(client: Client, options: Any) -> Any:
    asked = {"state": options.state, "dest": options.dest, "event_id": options.event_id}
    return client.listed("/deliveries", limit=options.limit, **asked)


def _gaps(client: Client, options: Any) -> Any:
    return client.listed("/gaps", limit=options.limit, gateway=options.gateway, sensor=options.sensor)


def _rows(columns: Sequence[str]) -> Callable[[Any], None]:
    return lambda answer: print(table(columns, answer["items"]) if answer["items"] else "None.")


def _show_health(answer: Any) -> None:
    print(f"status {answer['status']}")
    print(table(("store", "ok", "took_ms", "error"), [{"store": n} | s for n, s in answer["stores"].items()]))
    if answer["roles"]:
        print(table(("role", "pid"), [{"role": role, "pid": pid} for role, pid in answer["roles"].items()]))


def _show_join_token(answer: Any) -> None:
    if "items" in answer:
        print(table(JOIN_TOKEN_COLUMNS, answer["items"]))
    else:
        print(answer["token"])


def _show_readings(answer: Any) -> None:
    """Per series a heading and its rows, with gaps where they lie."""
    for series in answer["series"]:
        share = f"{series['coverage']:.1%} of the expected readings"
        clock = f"clock error up to {series['clock_err_ms']} ms"
        print(f"{series['key']}  [{series['unit'] or 'no unit'}]  {answer['resolution']}, {share}, {clock}")
        names = [name for name in VALUE_NAMES if name in series]
        rows = [
            {"time": _moment(at), **{name: series[name][i] for name in names}} | {"at": at}
            for i, at in enumerate(series["times_ms"])
        ]
        rows += [
            {"time": _moment(gap["from_ms"]), names[-1]: _gap_text(gap), "at": gap["from_ms"]}
            for gap in answer["gaps"]
            if gap["series"] == series["key"] and names
        ]
        rows.sort(key=lambda row: row["at"])
        print(table(("time", *names), rows) if rows else "No readings in this time.")
        print()


def _gap_text(gap: Any) -> str:
    return f"gap of {(gap['to_ms'] - gap['from_ms']) / 1000:.1f} s: {gap['reason']}"


def _moment(at_ms: int) -> str:
    """Local time to the millisecond, as the clock on the wall shows it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


VALUE_NAMES = ("values", "quality", "min", "max", "mean", "last", "count")

if __name__ == "__main__":
    raise SystemExit(main())
