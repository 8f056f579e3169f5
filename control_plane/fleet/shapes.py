"""The outline of a place: a circle or a simple polygon, in degrees WGS 84.

A polygon is a closed ring of [lat, lon] without crossings, in either direction, nowhere wider than half the globe: a
side between two corners is the straight one on a plate carrée map, so a ring can't span the date line.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Point = tuple[float, float]


class Circle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lat: Latitude
    lon: Longitude
    radius_m: Annotated[float, Meta(gt=0, le=1_000_000)]


Ring = Annotated[tuple[tuple[Latitude, Longitude], ...], Meta(min_length=4, max_length=1000)]


def mistakes(ring: tuple[Point, ...]) -> Iterator[tuple[int, str]]:
    """(index of the corner, sentence) of all that is wrong with a ring whose numbers are in range."""
    if ring[0] != ring[-1]:
        yield len(ring) - 1, "the ring is not closed: repeat the first point at the end"
        return
    for index, (one, other) in enumerate(pairwise(ring)):
        if one == other:
            yield index + 1, "is the same point as the one before"
        elif abs(one[1] - other[1]) > 180:
            yield index + 1, "is more than half the globe away: split the place at the date line"
    if len(set(ring)) < 3:
        yield 0, "fewer than three different points enclose nothing"
        return
    crossing = _crossing(ring)
    if crossing is not None:
        yield crossing[1], f"the side to it crosses or touches the side to point {crossing[0]}"


def _crossing(ring: tuple[Point, ...]) -> tuple[int, int] | None:
    """The first two sides, by their second corner, that share more than the corner between neighbours."""
    sides = list(pairwise(ring))
    last = len(sides) - 1
    for later in range(len(sides)):
        for earlier in range(later):
            one, other = sides[earlier], sides[later]
            if later - earlier == 1 or (earlier == 0 and later == last):
                if _folds_back(one, other, joined_at_end=later - earlier == 1):
                    return earlier + 1, later + 1
            elif _meet(one, other):
                return earlier + 1, later + 1
    return None


def _turn(a: Point, b: Point, c: Point) -> float:
    """Above 0: a → b → c turns one way, below 0 the other, 0: they lie in a line."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _within(a: Point, b: Point, c: Point) -> bool:
    """Whether c, in line with a and b, lies between them."""
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])


def _meet(one: tuple[Point, Point], other: tuple[Point, Point]) -> bool:
    (a, b), (c, d) = one, other
    turns = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    ends = ((turns[0], a, b, c), (turns[1], a, b, d), (turns[2], c, d, a), (turns[3], c, d, b))
    return any(turn == 0 and _within(p, q, r) for turn, p, q, r in ends)


def _folds_back(one: tuple[Point, Point], other: tuple[Point, Point], *, joined_at_end: bool) -> bool:
    """Whether two sides with a common corner lie on one another."""
    corner, before, after = (one[1], one[0], other[1]) if joined_at_end else (one[0], one[1], other[0])
    if before == after:
        return True
    ahead = (before[0] - corner[0]) * (after[0] - corner[0]) + (before[1] - corner[1]) * (after[1] - corner[1])
    return _turn(before, corner, after) == 0 and ahead > 0
