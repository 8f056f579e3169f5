"""A profile as the TOML that a person would have written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from firmware_configs.schema import ModbusProfile


def profile_text(profile: ModbusProfile) -> str:
    """Loads as the same profile."""
    return "\n".join(_lines(msgspec.to_builtins(profile))) + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    tables = {key: value for key, value in document.items() if _is_tables(value)}
    sections = {key: value for key, value in document.items() if isinstance(value, dict) and value}
    for key, value in document.items():
        if key not in tables and key not in sections and value != {}:
            yield f"{key} = {_value(value)}"
    for key, value in sections.items():
        yield from ("", f"[{key}]", *(f"{_key(name)} = {_value(one)}" for name, one in value.items()))
    for key, rows in tables.items():
        for row in rows:
            yield from ("", f"[[{key}]]", *(f"{name} = {_value(one)}" for name, one in row.items()))


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, dict) for one in value)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
