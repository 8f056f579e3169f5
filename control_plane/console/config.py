"""comboio config: show, set, diff, adopt, status. A target is `fleet`, `group/<slug>` or a gateway's id."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from control_plane.console.client import Client
from control_plane.console.commands import Command
from control_plane.console.profile import UsageError
from control_plane.console.table import table

STATUS_COLUMNS = ("gateway", "state", "offline", "generation", "running_generation", "sentence")
LEAF_COLUMNS = ("pointer", "value", "layer")
DIFF_COLUMNS = ("pointer", "running", "wanted")
RESULT_COLUMNS = ("gateway", "changed", "generation", "hash", "errors")


def add(command: Command) -> None:
    """The subcommands of `comboio config`."""
    show = command("show", _show, _print_shown, "what a layer says, or what is wanted of a gateway and why")
    show.add_argument("target", help="fleet, group/<slug> or a gateway's id")
    put = command("set", _set, _print_saved, "replace a layer by a TOML or JSON file")
    put.add_argument("target", help="fleet, group/<slug> or a gateway's id")
    put.add_argument("file", help="*.toml, or JSON; - reads JSON from standard input")
    put.add_argument("--based-on", type=int, metavar="VERSION", help="refuse unless this version is still in force")
    put.add_argument("--dry-run", action="store_true", help="say what would happen, save nothing")
    diff = command("diff", _gateway, _print_diff, "from what runs to what is wanted, leaf by leaf")
    diff.add_argument("gateway")
    adopt = command("adopt", _adopt, _print_saved, "make what a gateway runs its own layer")
    adopt.add_argument("gateway")
    status = command("status", _status, _print_status, "how far gateways are from what is wanted")
    status.add_argument("gateway", nargs="?")


def _path(target: str) -> str:
    if target == "fleet":
        return "/config/fleet"
    kind, slash, slug = target.partition("/")
    if slash and kind == "group":
        return f"/config/groups/{quote(slug, safe='')}"
    if slash:
        raise UsageError(f"{target}: a target is fleet, group/<slug> or a gateway's id")
    return f"/config/gateways/{quote(target, safe='')}"


def _show(client: Client, options: Any) -> Any:
    path = _path(options.target)
    return client.get(path) if not path.startswith("/config/gateways/") else client.get(_config_path(options.target))


def _set(client: Client, options: Any) -> Any:
    path = _path(options.target)
    document = _read(options.file)
    version = options.based_on if options.based_on is not None else client.get(path)["version"]
    query = "?dry_run=true" if options.dry_run else ""
    return client.put(path + query, {"document": document}, if_match=f'"{version}"')


def _read(name: str) -> Any:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return tomllib.loads(data.decode()) if name.endswith(".toml") else msgspec.json.decode(data)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {error}") from None


def _gateway(client: Client, options: Any) -> Any:
    return client.get(_config_path(options.gateway))


def _adopt(client: Client, options: Any) -> Any:
    return client.post(f"{_config_path(options.gateway)}/adopt", None)


def _status(client: Client, options: Any) -> Any:
    if options.gateway is None:
        return client.listed("/config/status", limit=10_000)
    return client.get(_config_path(options.gateway))


def _config_path(gateway: str) -> str:
    return f"/gateways/{quote(gateway, safe='')}/config"


# --- printing ----------------------------------------------------------------------------------------


def _print_shown(answer: Any) -> None:
    if "provenance" not in answer:
        by = f", saved by {answer['saved_by']}" if answer["saved_by"] else ""
        print(f"{answer['name']}, version {answer['version']}{by}")
        print(msgspec.json.format(msgspec.json.encode(answer["document"])).decode())
        return
    _print_heading(answer)
    if answer["desired"] is not None:
        layers = answer["provenance"]
        rows = [
            {"pointer": pointer, "value": _text(value), "layer": layers.get(pointer, "default")}
            for pointer, value in _leaves(answer["desired"]["document"])
        ]
        print(table(LEAF_COLUMNS, rows))


def _print_diff(answer: Any) -> None:
    rows = [
        {"pointer": one["pointer"], "running": _text(one["before"]), "wanted": _text(one["after"])}
        for one in answer["diff"]
    ]
    print(table(DIFF_COLUMNS, rows) if rows else "No difference.")


def _print_saved(answer: Any) -> None:
    rows = [
        {**target, "hash": target["hash"][:12], "errors": "; ".join(_error(e) for e in target["errors"]) or None}
        for target in answer["targets"]
    ]
    print("Nothing was saved: a dry run." if answer["dry_run"] else f"Saved as version {answer['version']}.")
    if rows:
        print(table(RESULT_COLUMNS, rows))


def _print_status(answer: Any) -> None:
    if "items" in answer:
        print(table(STATUS_COLUMNS, answer["items"]) if answer["items"] else "None.")
        return
    _print_heading(answer)
    rows = answer["history"]
    if rows:
        print(table(("received", "generation", "state", "reason", "pointer", "text"), rows))


def _print_heading(answer: Any) -> None:
    offline = ", offline" if answer["offline"] else ""
    print(f"{answer['gateway']}: {answer['state']}{offline}. {answer['sentence']}")
    wanted, running = answer["desired"], answer["running"]
    if wanted is not None:
        since = f"since {wanted['since']}: {wanted['why']}"
        print(f"wanted   generation {wanted['generation']}, {wanted['hash'][:12]}, {since}")
    if running is not None:
        print(f"running  generation {running['generation']}, {running['hash'][:12]}, {running['phase']}")


def _leaves(document: Any, path: str = "") -> list[tuple[str, Any]]:
    """As the server's pointers: items of an array of tables by their id."""
    if isinstance(document, dict) and document:
        found = [_leaves(value, f"{path}/{_escaped(key)}") for key, value in document.items()]
        return [leaf for some in found for leaf in some]
    if isinstance(document, list) and document and all(isinstance(i, dict) and "id" in i for i in document):
        found = [_leaves(item, f"{path}/{_escaped(item['id'])}") for item in document]
        return [leaf for some in found for leaf in some]
    return [(path, document)]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _error(error: Any) -> str:
    return f"{error['pointer']}: {error['message']}"


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
