"""From layers to one document, knowing where each leaf came from. Pure.

Tables merge key by key; arrays of tables whose items have an `id` merge by it, the base's order first; every other
value replaces what was there; null deletes. An array of tables may also be written as a table of its ids, which is how
an item is deleted: {"sensor": {"probe": null}}.

Pointers name items of such arrays by their id: /sensor/probe/every_s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ARRAYS = ("bus", "broker", "sensor")
"""The document's arrays of tables with an id, also where a layer writes them as a table."""
BASE = {"config_version": 1, "management": "managed"}
DEFAULT = "default"


class Layer(NamedTuple):
    """`name` as provenance says it: fleet, group/trucks, gateway."""

    name: str
    body: Mapping[str, Any]


class Rendered(NamedTuple):
    """`provenance`: pointer of each leaf → name of the layer that set it."""

    document: dict[str, Any]
    provenance: dict[str, str]


def render(layers: Iterable[Layer]) -> Rendered:
    """The layers on top of one another, lowest first."""
    document: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    for layer in (Layer(DEFAULT, BASE), *layers):
        _table(document, layer.body, "", layer.name, provenance)
    for name in ARRAYS:
        if isinstance(held := document.get(name), _Items):
            document[name] = list(held.values())
    return Rendered(document, provenance)


class _Items(dict[str, Any]):
    """An array of tables while it is being merged: id → table."""


def _table(into: dict[str, Any], over: Mapping[str, Any], path: str, layer: str, provenance: dict[str, str]) -> None:
    for key, value in over.items():
        here = f"{path}/{_escaped(key)}"
        if value is None:
            into.pop(key, None)
            _forget(provenance, here)
        elif (items := _as_items(value, here)) is not None:
            if not isinstance(into.get(key), _Items):
                into[key] = _Items()
            _items(into[key], items, here, layer, provenance)
        elif isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                _forget(provenance, here)
                into[key] = {}
            if not value:
                provenance.setdefault(here, layer)
            _table(into[key], value, here, layer, provenance)
        else:
            _forget(provenance, here)
            into[key] = value
            provenance[here] = layer


def _items(into: _Items, over: Mapping[str, Any], here: str, layer: str, provenance: dict[str, str]) -> None:
    for name, value in over.items():
        item_at = f"{here}/{_escaped(name)}"
        if value is None:
            into.pop(name, None)
            _forget(provenance, item_at)
        else:
            known = name in into
            body = {key: held for key, held in value.items() if key != "id"} if known else {"id": name, **value}
            _table(into.setdefault(name, {}), body, item_at, layer, provenance)


def _as_items(value: Any, here: str) -> Mapping[str, Any] | None:
    if here.removeprefix("/") not in ARRAYS:
        return None
    if isinstance(value, Mapping) and all(item is None or isinstance(item, Mapping) for item in value.values()):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        named = [item for item in value if isinstance(item, Mapping) and isinstance(item.get("id"), str)]
        if len(named) == len(value) == len({item["id"] for item in named}):
            return {item["id"]: item for item in named}
    return None


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a document with its pointer."""
    if isinstance(document, Mapping) and document:
        for key, value in document.items():
            yield from leaves(value, f"{path}/{_escaped(str(key))}")
    elif isinstance(document, list) and (items := _as_items(document, path)):
        for name, item in items.items():
            yield from leaves(item, f"{path}/{_escaped(name)}")
    elif path:
        yield path, document


class Difference(NamedTuple):
    """None stands for "not there"."""

    pointer: str
    before: Any
    after: Any


def differences(before: Any, after: Any) -> list[Difference]:
    """Leaf by leaf, by pointer."""
    old, new = dict(leaves(before)), dict(leaves(after))
    pointers = sorted(old.keys() | new.keys())
    return [Difference(p, old.get(p), new.get(p)) for p in pointers if old.get(p) != new.get(p)]


def by_id(pointer: str, document: Mapping[str, Any]) -> str:
    """/sensor/2/every_s → /sensor/probe/every_s, as provenance has it."""
    parts = pointer.split("/")
    if len(parts) > 2 and parts[1] in ARRAYS and parts[2].isdigit():
        held = document.get(parts[1])
        if isinstance(held, list) and int(parts[2]) < len(held) and isinstance(held[int(parts[2])], Mapping):
            parts[2] = _escaped(str(held[int(parts[2])].get("id", parts[2])))
    return "/".join(parts)


def _forget(provenance: dict[str, str], here: str) -> None:
    for pointer in [p for p in provenance if p == here or p.startswith(here + "/")]:
        del provenance[pointer]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
