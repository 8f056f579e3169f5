"""The example files list every setting, with its default and a sentence."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from control_plane.relay.connectors import CONNECTORS
from control_plane.relay.destinations import options_of
from control_plane.settings import Settings
from protos.config import GatewayConfig
from protos.strict import convert

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    ("control_plane/control.example.toml", Settings),
    *((f"control_plane/integrations.example/{kind}.toml", options_of(kind)) for kind in CONNECTORS),
    ("gateway/gateway.example.toml", GatewayConfig),
]
# An example says more than the empty default.
SHOWN_OTHERWISE = {"name", "calibration", "attrs", "validate", "report", "above", "values", "topic"}


@pytest.mark.parametrize(("path", "kind"), EXAMPLES)
def test_the_example_is_a_valid_document(path: str, kind: type) -> None:
    convert(tomllib.loads((ROOT / path).read_text()), kind)


@pytest.mark.parametrize(("path", "kind"), EXAMPLES)
def test_every_setting_is_in_the_example_with_its_default(path: str, kind: type) -> None:
    text = (ROOT / path).read_text()
    assert list(missing(tomllib.loads(text), inspect.type_info(kind), "", text)) == []


@pytest.mark.parametrize("path", [path for path, _ in EXAMPLES])
def test_every_setting_of_the_example_has_a_sentence(path: str) -> None:
    lines = (ROOT / path).read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"(# )?[a-z_]+ = ", line) and not re.match(r"# .+\.$", before)
    ]
    assert bare == []


def test_a_setting_left_out_or_with_another_default_is_found() -> None:
    raw = {"linger_ms": 5.0, "max_inflight": 17}
    kind = inspect.type_info(type(Settings().ingest))
    found = list(missing(raw, kind, "ingest", ""))
    assert "ingest.max_inflight: the example says 17, the default is 16" in found
    assert "ingest.max_body_bytes: not in the example" in found


def missing(raw: Any, kind: inspect.Type, path: str, text: str) -> Iterator[str]:
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            here = f"{path}.{field.encode_name}".lstrip(".")
            yield from missing_field(raw, field, here, text)
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(raw, list):
        yield from missing_items(raw, kind.item_type, path, text)


def missing_field(raw: Any, field: inspect.Field, here: str, text: str) -> Iterator[str]:
    name = field.encode_name
    if name not in raw:
        absent = field.default is None and re.search(rf"^# {name} = ", text, re.MULTILINE)
        if not absent:
            yield f"{here}: not in the example"
    elif isinstance(raw[name], dict) or (raw[name] and isinstance(raw[name], list) and isinstance(raw[name][0], dict)):
        yield from missing(raw[name], field.type, here, text)
    elif field.default is not msgspec.NODEFAULT and name not in SHOWN_OTHERWISE:
        default = msgspec.to_builtins(field.default)
        shown = tuple(raw[name]) if isinstance(raw[name], list) else raw[name]
        if shown != (tuple(default) if isinstance(default, list) else default):
            yield f"{here}: the example says {raw[name]!r}, the default is {default!r}"


def missing_items(raw: list[Any], kind: inspect.Type, path: str, text: str) -> Iterator[str]:
    structs = [option for option in getattr(kind, "types", (kind,)) if isinstance(option, inspect.StructType)]
    for struct in structs:
        shown = [item for item in raw if struct.tag_field is None or item.get(struct.tag_field) == struct.tag]
        if not shown:
            yield f"{path}: no {struct.tag} in the example"
        for item in shown[:1]:
            yield from missing(item, struct, path, text)
