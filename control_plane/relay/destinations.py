"""The folder of integrations: one file per destination, read by the kind it names."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from control_plane.errors import Misconfigured
from control_plane.relay.connector import Connector
from control_plane.relay.connectors import CONNECTORS
from control_plane.relay.maintenance import Calendar
from control_plane.settings import Destination, converted, toml


def read_destinations(folder: Path) -> tuple[Destination, ...]:
    """Every destination of `folder`, by name; an absent folder holds none. Paths of files are absolute afterwards.

    Raises Misconfigured with the file and every mistake in it.
    """
    return tuple(_read(path) for path in sorted(folder.glob("*.toml")))


def connect(destination: Destination) -> Connector:
    """The connector of its kind. Raises Misconfigured."""
    return _class(destination.kind)(destination)  # type: ignore[no-any-return]


def options_of(kind: str) -> type[Destination]:
    """The settings of one kind."""
    return _class(kind).Options  # type: ignore[no-any-return]


def _class(kind: str) -> Any:
    module, _, name = CONNECTORS[kind].partition(":")
    return getattr(import_module(module), name)


def _read(path: Path) -> Destination:
    raw = toml(path)
    kind = raw.get("kind", "webhook")
    if kind not in CONNECTORS:
        near = difflib.get_close_matches(str(kind), CONNECTORS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(CONNECTORS))}"
        raise Misconfigured(f"{path}: kind: there is no connector {kind!r}{hint}")
    destination = converted(raw, options_of(kind), path)
    if destination.name not in {"", path.stem}:
        raise Misconfigured(f"{path}: name: is {destination.name!r}, the file's name says {path.stem!r}")
    try:
        Calendar(destination.maintenance, destination.timezone)
    except ValueError as error:
        raise Misconfigured(f"{path}: maintenance: {error}") from None
    files = {
        name: str((path.parent / value).absolute())
        for name in destination.__struct_fields__
        if name.endswith("_file") and (value := getattr(destination, name))
    }
    for name, file in files.items():
        if not Path(file).is_file():
            raise Misconfigured(f"{path}: {name}: there is no file {file}")
    return msgspec.structs.replace(destination, name=path.stem, **files)
