"""What a query says, taken apart; and how everything that is wrong with one is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

BAD_DATA, EXECUTION = "bad_data", "execution"
STATUS_OF = {BAD_DATA: 400, EXECUTION: 422}

OVER_TIME = ("avg_over_time", "min_over_time", "max_over_time", "sum_over_time", "count_over_time", "last_over_time")
BETWEEN = ("rate", "increase", "delta")
FUNCTIONS = (*OVER_TIME, *BETWEEN)
AGGREGATIONS = ("sum", "avg", "min", "max", "count")
Comparison = Literal["=", "!=", "=~", "!~"]


class QueryError(Exception):
    """Ends a request with Prometheus' own form of an error; `kind` is its errorType."""

    def __init__(self, text: str, *, kind: str = BAD_DATA, status: int | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = STATUS_OF[kind] if status is None else status


@dataclass(frozen=True, slots=True)
class Matcher:
    label: str
    how: Comparison
    value: str


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Selector:
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function over the last `range_ms` before each instant."""

    function: str
    of: Selector
    range_ms: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`labels`: those that stay, or with `without` those that go."""

    how: str
    labels: tuple[str, ...]
    without: bool
    of: Expression


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """At most one side is a vector."""

    sign: str
    left: Expression
    right: Expression


Expression: TypeAlias = Number | Selector | Call | Aggregate | Arithmetic


def is_scalar(one: Expression) -> bool:
    if isinstance(one, Arithmetic):
        return is_scalar(one.left) and is_scalar(one.right)
    return isinstance(one, Number)
