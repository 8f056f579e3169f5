"""What a driver, or what runs beside it, says of itself to a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Complaining(Protocol):
    """`problem`: why the last thing it tried gave nothing; None while all is well."""

    @property
    def problem(self) -> str | None: ...


def problem_of(one: object) -> Callable[[], str | None]:
    """Asks `one` each time it is called; something that never complains has no problem."""

    def problem() -> str | None:
        return one.problem if isinstance(one, Complaining) else None

    return problem


def counters_of(driver: object) -> dict[str, int]:
    """Its counters by name; counters by cause become `failed_timeout` and the like."""
    return dict(_flat("", getattr(driver, "counters", None)))


def _flat(name: str, held: object) -> list[tuple[str, int]]:
    if isinstance(held, int):
        return [(name, held)]
    if isinstance(held, Mapping):
        parts = [(str(key), value) for key, value in held.items()]
    elif is_dataclass(held):
        parts = [(one.name, getattr(held, one.name)) for one in fields(held)]
    else:
        return []
    return [one for key, value in parts for one in _flat(f"{name}_{key}" if name else key, value)]
