"""Keyset paging: `{"items": […], "next": cursor}`; the cursor is opaque and stays valid while rows come and go."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar, overload

import msgspec
from msgspec import Meta, Struct

from control_plane.api.problems import FieldProblem, Problem

T = TypeVar("T")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Page(Struct, Generic[T], frozen=True):
    items: list[T]
    next: str | None


class PageQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every list's query."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: str | None = None

    def after(self, *kinds: Any) -> tuple[Any, ...] | None:
        """The last item's key of the page before, its parts of these types; None on the first page."""
        if self.cursor is None:
            return None
        try:
            padded = self.cursor + "=" * (-len(self.cursor) % 4)
            key: tuple[Any, ...] = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=tuple[kinds])  # type: ignore[valid-type]
            if any(_unkept(part) for part in key):
                raise ValueError
            return key
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            wrong = FieldProblem("?cursor", "not a cursor of this list; leave it out to begin again")
            raise Problem(422, "The cursor can't be read.", errors=[wrong]) from None


def page(rows: Sequence[Any], *, limit: int, item: Callable[[Any], T], key: Callable[[Any], Sequence[Any]]) -> Page[T]:
    """A page of at most `limit` from `rows`, of which one more was asked for."""
    shown = rows[:limit]
    following = cursor(*key(shown[-1])) if len(rows) > limit else None
    return Page([item(row) for row in shown], following)


def _unkept(part: Any) -> bool:
    """What no database would have given out."""
    return "\0" in part if isinstance(part, str) else isinstance(part, int) and abs(part) >= 1 << 63


def cursor(*key: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


@overload
def moment(at_ms: int) -> datetime: ...
@overload
def moment(at_ms: int | None) -> datetime | None: ...
def moment(at_ms: int | None) -> datetime | None:
    """Milliseconds since 1970 as the aware datetime that JSON shows as RFC 3339 with Z."""
    return None if at_ms is None else EPOCH + timedelta(milliseconds=at_ms)


def milliseconds(at: datetime, pointer: str) -> int:
    """An aware datetime as milliseconds since 1970; raises Problem 422 naming `pointer` for one without offset."""
    if at.tzinfo is None:
        wrong = FieldProblem(pointer, "write e.g. 2026-11-22T10:00:00Z")
        raise Problem(422, "A time needs its offset.", errors=[wrong])
    return round(at.timestamp() * 1000)
