"""Which gateway an event or a delivery is about: the first part of its subject."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func

from control_plane.fleet.rights import Caller
from control_plane.store.engine import Store


def within(caller: Caller, store: Store, column: Any) -> tuple[ColumnElement[bool], ...]:
    """Conditions on a column of subjects."""
    if store.sqlite:
        return caller.within(func.substr(column, 1, func.instr(column + "/", "/") - 1))
    return caller.within(func.split_part(column, "/", 1))


def visible(caller: Caller, subject: str) -> bool:
    return caller.sees(subject.partition("/")[0])
