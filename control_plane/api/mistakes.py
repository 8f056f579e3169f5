"""Everything that is wrong with a document, each mistake with its JSON pointer; msgspec stops at the first one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from control_plane.api.problems import FieldProblem

MOST = 100


def mistakes(raw: Any, kind: Any, pointer: str = "", *, strict: bool = True) -> Iterator[FieldProblem]:
    """None when `raw` converts to `kind`."""
    try:
        msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        inner = list(_inside(raw, _plain(kind), pointer, strict))
        yield from inner or [FieldProblem(pointer, _sentence(error))]


def with_nul(raw: Any, pointer: str = "") -> Iterator[FieldProblem]:
    """Texts with a NUL character: PostgreSQL has no place for them."""
    if isinstance(raw, str) and "\0" in raw:
        yield FieldProblem(pointer, "contains a NUL character, which can't be stored")
    elif isinstance(raw, dict):
        for key, value in raw.items():
            if "\0" in key:
                yield FieldProblem(pointer, "has a key with a NUL character, which can't be stored")
            yield from with_nul(value, f"{pointer}/{escaped(key)}")
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from with_nul(value, f"{pointer}/{index}")


def escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _plain(kind: Any) -> Any:
    """Without Annotated, and without None and Unset where one type is left."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        left = [one for one in get_args(kind) if one not in {NoneType, msgspec.UnsetType}]
        return _plain(left[0]) if len(left) == 1 else kind
    return kind


def _inside(raw: Any, kind: Any, pointer: str, strict: bool) -> Iterator[FieldProblem]:
    if isinstance(raw, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _in_struct(raw, kind, pointer, strict)
        return
    origin, of = get_origin(kind), get_args(kind)
    if isinstance(raw, dict) and origin is dict:
        for key, value in raw.items():
            here = f"{pointer}/{escaped(key)}"
            for wrong in mistakes(key, of[0], here, strict=strict):
                yield FieldProblem(here, f"the key: {wrong.message}")
            yield from mistakes(value, of[1], here, strict=strict)
    elif isinstance(raw, list) and (origin in {list, frozenset} or (origin is tuple and of[1:] == (...,))):
        for index, value in enumerate(raw):
            yield from mistakes(value, of[0], f"{pointer}/{index}", strict=strict)
    elif isinstance(raw, list) and origin is tuple and len(of) == len(raw):
        for index, (value, one) in enumerate(zip(raw, of, strict=True)):
            yield from mistakes(value, one, f"{pointer}/{index}", strict=strict)


def _in_struct(raw: dict[str, Any], kind: type[msgspec.Struct], pointer: str, strict: bool) -> Iterator[FieldProblem]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {part.encode_name: part for part in msgspec.structs.fields(kind)}
    for name, part in fields.items():
        if name in raw:
            yield from mistakes(raw[name], hints[part.name], f"{pointer}/{name}", strict=strict)
        elif part.required:
            yield FieldProblem(f"{pointer}/{name}", "is missing")
    if kind.__struct_config__.forbid_unknown_fields:
        for name in raw:
            if name not in fields:
                yield FieldProblem(f"{pointer}/{escaped(name)}", "is not known here" + near(name, fields))


def _sentence(error: msgspec.ValidationError) -> str:
    message = str(error).partition(" - at `")[0].replace("`", "")
    return message[0].lower() + message[1:]
