"""comboio gateways, sensors, assets, places, groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from control_plane.console.client import Client
from control_plane.console.commands import Command, Commands, deleted, edited, filters, path
from control_plane.console.profile import UsageError
from control_plane.console.show import rows, said, sheet

GATEWAYS = rows(("id", "name", "asset", "groups", "enrolled", "retired", "certificate_expires"))
SENSORS = rows(("gateway", "sensor", "name", "asset", "declared", "configured", "quantities"), of=lambda one: {
    **one, "quantities": [f"{series['quantity']} [{series['unit']}]" for series in one["series"]]
})  # fmt: skip
ASSETS = rows(("id", "kind", "name", "attrs"))
PLACES = rows(("slug", "name", "outline"), of=lambda one: {**one, "outline": _outline(one)})
GROUPS = rows(("slug", "name", "priority", "gateways"), of=lambda one: {**one, "gateways": len(one["members"])})
KEPT = {
    "raw_days": "batches as they came",
    "readings_days": "readings",
    "minutes_days": "rollups of a minute",
    "hours_days": "rollups of an hour",
    "days_days": "rollups of a day",
}
RETENTION = rows(("group", *KEPT), of=lambda one: {**one, "group": one["group"] or "(the server's setting)"})
EVERYTHING = 100_000
CIRCLE = ("lat", "lon", "radius_m")


def add(commands: Commands) -> None:
    _add_gateways(commands)
    _add_sensors(commands)
    _add_assets(commands)
    _add_places(commands)
    _add_groups(commands)
    _add_retention(commands)


def _add_gateways(commands: Commands) -> None:
    def listed(client: Client, options: Any) -> Any:
        asked = {name: getattr(options, name, None) for name in ("group", "asset")}
        return client.listed("/gateways", limit=EVERYTHING, **asked)

    action = commands.family(
        "gateways",
        "the registry of gateways",
        run=listed,
        show=GATEWAYS,
        asks=lambda c: filters(c, "group", "asset", limit=False),
    )
    _one(action, "show", lambda c, o: c.get(path("gateways", o.id)), sheet, "one gateway")
    new = action("add", _register, said("{gateway[id]}  {token}"), "register a gateway ahead; prints its id and token")
    new.add_argument("name")
    new.add_argument("--asset")
    new.add_argument("--group", action="append", default=[])
    new.add_argument("--ttl-s", type=int, default=86_400)
    again = _one(action, "token", _token, said("{token}"), "another join token, while the box has not come")
    again.add_argument("--ttl-s", type=int, default=86_400)
    rename = _one(
        action,
        "rename",
        lambda c, o: edited(c, path("gateways", o.id), {"name": o.name}),
        sheet,
        "give it another name",
    )
    rename.add_argument("name")
    assign = _one(action, "assign", _assign, sheet, "mount it on an asset, put it into groups")
    assign.add_argument("--asset")
    assign.add_argument("--no-asset", action="store_true")
    assign.add_argument("--group", action="append", help="all its groups; may be repeated")
    assign.add_argument("--no-groups", action="store_true")
    _one(
        action,
        "release-clone",
        _release_clone,
        said("{released} goes on when it says Hello, within two minutes."),
        "let it go on after two boxes used its identity, once the second one is gone",
    )
    _one(
        action,
        "retire",
        lambda c, o: deleted(c, path("gateways", o.id)),
        said("{deleted} is retired; what it delivered stays."),
        "revoke its certificate for good",
    )


def _register(client: Client, options: Any) -> Any:
    body = {"name": options.name, "asset": options.asset, "groups": options.group, "ttl_s": options.ttl_s}
    return client.post("/gateways", body)


def _release_clone(client: Client, options: Any) -> Any:
    client.post(path("gateways", options.id, "clone", "release"), {})
    return {"released": options.id}


def _token(client: Client, options: Any) -> Any:
    return client.post(path("gateways", options.id, "join-token"), {"ttl_s": options.ttl_s})


def _assign(client: Client, options: Any) -> Any:
    changed: dict[str, Any] = {}
    if options.asset is not None or options.no_asset:
        changed["asset"] = options.asset
    if options.group is not None or options.no_groups:
        changed["groups"] = options.group or []
    if not changed:
        raise UsageError("assign needs --asset, --no-asset, --group or --no-groups")
    return edited(client, path("gateways", options.id), changed)


def _add_sensors(commands: Commands) -> None:
    def listed(client: Client, options: Any) -> Any:
        asked = {name: getattr(options, name, None) for name in ("gateway", "asset")}
        return client.listed("/sensors", limit=EVERYTHING, **asked)

    def where(options: Any) -> str:
        return path("gateways", options.gateway, "sensors", options.sensor)

    def change(client: Client, options: Any) -> Any:
        names = ("name", "asset", "notes")
        changed = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        if options.no_asset:
            changed["asset"] = None
        if not changed:
            raise UsageError("set needs --name, --asset, --no-asset or --notes")
        return edited(client, where(options), changed)

    action = commands.family(
        "sensors",
        "sensors, declared or configured",
        run=listed,
        show=SENSORS,
        asks=lambda c: filters(c, "gateway", "asset", limit=False),
    )
    one = action("show", lambda c, o: c.get(where(o)), sheet, "one sensor")
    put = action("set", change, sheet, "name it, mount it, write something down")
    for command in (one, put):
        command.add_argument("gateway")
        command.add_argument("sensor")
    for name in ("name", "asset", "notes"):
        put.add_argument(f"--{name}")
    put.add_argument("--no-asset", action="store_true")


def _add_assets(commands: Commands) -> None:
    def listed(client: Client, options: Any) -> Any:
        asked = {name: getattr(options, name, None) for name in ("kind", "under")}
        return client.listed("/assets", limit=EVERYTHING, **asked)

    def put(client: Client, options: Any) -> Any:
        where = path("assets", options.id)
        before = client.find(where) or {"kind": "other", "name": "", "attrs": {}, "etag": '"0"'}
        body = {
            "kind": options.kind or before["kind"],
            "name": before["name"] if options.name is None else options.name,
            "attrs": before["attrs"] | _pairs(options.attr),
        }
        return client.put(where, body, if_match=before["etag"])

    action = commands.family(
        "assets",
        "vehicles, compartments, warehouses",
        run=listed,
        show=ASSETS,
        asks=lambda c: filters(c, "kind", "under", limit=False),
    )
    _one(action, "show", lambda c, o: c.get(path("assets", o.id)), sheet, "one asset")
    save = _one(action, "set", put, sheet, "make or change an asset; truck-17/box is a part of truck-17")
    save.add_argument("--kind", choices=("vehicle", "compartment", "warehouse", "other"))
    save.add_argument("--name")
    save.add_argument("--attr", action="append", default=[], metavar="KEY=VALUE")
    _one(action, "delete", lambda c, o: deleted(c, path("assets", o.id)), said("{deleted} is gone."), "delete an asset")


def _add_places(commands: Commands) -> None:
    def listed(client: Client, _options: Any) -> Any:
        return client.listed("/places", limit=EVERYTHING)

    def put(client: Client, options: Any) -> Any:
        where = path("places", options.id)
        before = client.find(where) or {"name": "", "attrs": {}, "etag": '"0"'}
        body = {name: before[name] for name in ("name", "attrs", "circle", "polygon") if name in before}
        if options.name is not None:
            body["name"] = options.name
        if options.circle or options.polygon:
            body = {name: body[name] for name in ("name", "attrs")}
            body |= (
                {"circle": dict(zip(CIRCLE, options.circle, strict=True))}
                if options.circle
                else {"polygon": _ring(options.polygon)}
            )
        return client.put(where, body, if_match=before["etag"])

    action = commands.family("places", "named circles and polygons", run=listed, show=PLACES)
    _one(action, "show", lambda c, o: c.get(path("places", o.id)), sheet, "one place")
    save = _one(action, "set", put, sheet, "make or change a place")
    save.add_argument("--name")
    outline = save.add_mutually_exclusive_group()
    outline.add_argument("--circle", type=float, nargs=3, metavar=("LAT", "LON", "RADIUS_M"))
    outline.add_argument("--polygon", metavar="FILE", help="JSON: [[lat, lon], …], closed")
    _one(action, "delete", lambda c, o: deleted(c, path("places", o.id)), said("{deleted} is gone."), "delete a place")


def _add_groups(commands: Commands) -> None:
    def listed(client: Client, _options: Any) -> Any:
        return client.listed("/groups", limit=EVERYTHING)

    def put(client: Client, options: Any) -> Any:
        where = path("groups", options.id)
        before = client.find(where) or {"name": "", "priority": 0, "members": [], "etag": '"0"'}
        members = (set(before["members"]) | set(options.add)) - set(options.remove)
        body = {
            "name": before["name"] if options.name is None else options.name,
            "priority": before["priority"] if options.priority is None else options.priority,
            "members": sorted(members),
        }
        client.put(where, body, if_match=before["etag"])
        return client.get(where)

    action = commands.family("groups", "groups of gateways", run=listed, show=GROUPS)
    _one(action, "show", lambda c, o: c.get(path("groups", o.id)), sheet, "one group")
    save = _one(action, "set", put, sheet, "make or change a group")
    save.add_argument("--name")
    save.add_argument("--priority", type=int)
    save.add_argument("--add", action="append", default=[], metavar="GATEWAY")
    save.add_argument("--remove", action="append", default=[], metavar="GATEWAY")
    _one(action, "delete", lambda c, o: deleted(c, path("groups", o.id)), said("{deleted} is gone."), "delete a group")


def _add_retention(commands: Commands) -> None:
    def listed(client: Client, _options: Any) -> Any:
        return client.listed("/retention", limit=EVERYTHING)

    def put(client: Client, options: Any) -> Any:
        where = path("retention", options.id)
        before = client.find(where) or {"own": {}, "etag": '"0"'}
        said = {name: getattr(options, name) for name in KEPT if getattr(options, name) is not None}
        return client.put(where, before["own"] | said, if_match=before["etag"])

    action = commands.family("retention", "how long what gateways sent is kept", run=listed, show=RETENTION)
    _one(action, "show", lambda c, o: c.get(path("retention", o.id)), sheet, "one group's")
    save = _one(action, "set", put, sheet, "give a group a retention of its own, in days; 0 = for ever")
    for name, what in KEPT.items():
        save.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="DAYS", help=what)
    gone = said("{deleted} is kept as the server's setting says.")
    _one(action, "delete", lambda c, o: deleted(c, path("retention", o.id)), gone, "as the server's setting says again")


def _one(action: Command, name: str, run: Any, show: Any, text: str) -> Any:
    added = action(name, run, show, text)
    added.add_argument("id")
    return added


def _pairs(texts: list[str]) -> dict[str, str]:
    if wrong := [text for text in texts if "=" not in text]:
        raise UsageError(f"--attr {wrong[0]}: write KEY=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _ring(name: str) -> Any:
    try:
        return msgspec.json.decode(Path(name).read_bytes())
    except OSError as error:
        raise UsageError(f"--polygon {name}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"--polygon {name}: {error}") from None


def _outline(one: Any) -> str:
    if "circle" in one:
        circle = one["circle"]
        return f"{circle['radius_m']:g} m around {circle['lat']:.5f}, {circle['lon']:.5f}"
    return f"polygon of {len(one['polygon']) - 1} corners"
