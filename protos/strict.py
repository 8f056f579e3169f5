"""Strict reading of typed documents: every mistake at once, each with its path and, where one is near, a suggestion.

msgspec reports the first error only and knows no "did you mean"; this walks the document beside its type first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

T = TypeVar("T")


class DocumentError(ValueError):
    """A document that doesn't fit its type. `problems` holds one sentence per mistake, each starting with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def convert(raw: Any, type_: type[T]) -> T:
    """Turn plain data (from TOML or JSON) into `type_`, or raise DocumentError with everything that is wrong."""
    problems = list(_unknown(raw, inspect.type_info(type_), ""))
    try:
        value = msgspec.convert(raw, type_)
    except msgspec.ValidationError:
        for text in _misfits(raw, type_, ""):
            said = any(text.split(":")[0] == problem.split(":")[0] for problem in problems)
            if not said and not (problems and "unknown field" in text):
                problems.append(text)
        raise DocumentError(problems) from None
    if problems:
        raise DocumentError(problems)
    return value


def _misfits(raw: Any, kind: Any, path: str) -> Iterator[str]:
    """Every value that is not of its type, as deep as it stands: msgspec tells one, and no key of a mapping."""
    try:
        msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        inner = list(_misfits_inside(raw, _plain(kind, raw), path))
        yield from inner or [f"{path or 'document'}: {_readable(str(error))}"]


def _misfits_inside(raw: Any, kind: Any, path: str) -> Iterator[str]:
    origin, of = get_origin(kind), get_args(kind)
    if isinstance(raw, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind, include_extras=True)
        for part in msgspec.structs.fields(kind):
            if part.encode_name in raw:
                here = f"{path}.{part.encode_name}" if path else part.encode_name
                yield from _misfits(raw[part.encode_name], hints[part.name], here)
    elif isinstance(raw, dict) and origin is dict:
        for key, value in raw.items():
            for wrong in _misfits(key, of[0], f"{path}.{key}"):
                yield wrong.replace(": ", ": the key: ", 1)
            yield from _misfits(value, of[1], f"{path}.{key}")
    elif isinstance(raw, list) and (origin is list or (origin is tuple and of[1:] == (...,))):
        for index, value in enumerate(raw):
            yield from _misfits(value, of[0], f"{path}[{index}]")


def _plain(kind: Any, raw: Any) -> Any:
    """Without Annotated and without None; of a union of tagged types the one that `raw` says it is."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) not in {Union, UnionType}:
        return kind
    left = [one for one in get_args(kind) if one is not NoneType]
    if len(left) == 1:
        return _plain(left[0], raw)
    for one in left:
        facts = getattr(one, "__struct_config__", None)
        if facts is not None and isinstance(raw, dict) and raw.get(facts.tag_field) == facts.tag:
            return one
    return kind


def _readable(text: str) -> str:
    """'Expected `int`, got `str` - at `$.a[1].b`' → 'expected int, got str'."""
    message = text.partition(" - at `")[0].replace("`", "").replace("Object ", "")
    return message[0].lower() + message[1:]


def _unknown(raw: Any, kind: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(kind, inspect.StructType) and isinstance(raw, dict):
        known = {field.encode_name: field.type for field in kind.fields}
        if kind.tag_field is not None:
            known[kind.tag_field] = inspect.AnyType()
        for key, value in raw.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in known:
                where = f'"{kind.tag}"' if kind.tag is not None else "this section"
                yield f"{here}: not a setting of {where}" + _near(str(key), known)
            else:
                yield from _unknown(value, known[key], here)
    elif isinstance(kind, inspect.UnionType):
        yield from _unknown_in_union(raw, kind, path)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType) and isinstance(raw, list):
        for index, item in enumerate(raw):
            yield from _unknown(item, kind.item_type, f"{path}[{index}]")
    elif isinstance(kind, inspect.DictType) and isinstance(raw, dict):
        for key, value in raw.items():
            yield from _unknown(value, kind.value_type, f"{path}.{key}")


def _unknown_in_union(raw: Any, kind: inspect.UnionType, path: str) -> Iterator[str]:
    structs = [option for option in kind.types if isinstance(option, inspect.StructType)]
    tagged = {str(s.tag): s for s in structs if s.tag_field is not None}
    if tagged and isinstance(raw, dict):
        tag_field = str(next(iter(tagged.values())).tag_field)
        tag = raw.get(tag_field)
        if tag is None:
            yield f"{path}.{tag_field}: is missing; one of {', '.join(sorted(tagged))}"
        elif str(tag) not in tagged:
            yield f"{path}.{tag_field}: {tag!r} is not one of {', '.join(sorted(tagged))}" + _near(str(tag), tagged)
        else:
            yield from _unknown(raw, tagged[str(tag)], path)
        return
    for option in kind.types:
        mapping = isinstance(option, inspect.StructType | inspect.DictType) and isinstance(raw, dict)
        if mapping or (isinstance(option, inspect.ListType | inspect.VarTupleType) and isinstance(raw, list)):
            yield from _unknown(raw, option, path)


def _near(word: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def pointed(problem: str) -> tuple[str, str]:
    """'a[1].b: text' → ('/a/1/b', 'text'): a problem's path as a JSON pointer."""
    path, _, message = problem.partition(": ")
    if path == "document":
        return "", message
    return "/" + path.replace("[", "/").replace("]", "").replace(".", "/"), message
