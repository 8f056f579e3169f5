"""JSON Schema of the documents that people write here, for editors and other programs.

The files `*.schema.json` in this folder are what `comboio-gateway profiles schema` prints. A document that begins with
`#:schema ../modbus.schema.json` is completed and checked while it is written, by editors that know the directive.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from firmware_configs.adverts import BleProfile
from firmware_configs.boards import Board
from firmware_configs.characteristics import GattProfile
from firmware_configs.host import HostProfile
from firmware_configs.messages import MqttProfile
from firmware_configs.schema import ModbusProfile

KINDS: dict[str, type[msgspec.Struct]] = {
    "modbus": ModbusProfile,
    "ble": BleProfile,
    "gatt": GattProfile,
    "mqtt": MqttProfile,
    "host": HostProfile,
    "boards": Board,
}
"""By the folder its files are in."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: type[msgspec.Struct] = ModbusProfile) -> dict[str, Any]:
    """The schema of one kind of document. Its texts are the docstrings of the types and of their fields."""
    found = msgspec.json.schema(kind)
    definitions = found.get("$defs", {})
    for struct in _structs(kind):
        definition = definitions.get(struct.__name__, {})
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
        properties = definition.get("properties", {})
        for name, text in _field_texts(struct).items():
            if name in properties:
                properties[name].setdefault("description", text)
    return {"$schema": DIALECT, "title": kind.__name__, **found}


def written(kind: type[msgspec.Struct]) -> str:
    """As in its file."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


def _structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    seen: set[type[msgspec.Struct]] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(kind)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, msgspec.inspect.StructType):
            if one.cls in seen:
                continue
            seen.add(one.cls)
            yield one.cls
            waiting += [field.type for field in one.fields]
        else:
            waiting += [getattr(one, name) for name in ("item_type", "key_type", "value_type") if hasattr(one, name)]
            waiting += getattr(one, "types", ())


def _field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring under each field, in one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            texts[field.target.id] = " ".join(ast.literal_eval(after.value).split())
    return texts
