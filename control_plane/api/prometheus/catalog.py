"""Series as Prometheus names them: one metric per quantity, and which of them a selector means.

`supply_temperature{gateway="gw-…", sensor="cooling", quantity="supply_temperature", unit="Cel"}`. The metric's name is
the quantity's with what Prometheus doesn't allow replaced; `quantity` has it as it is, so that two that look alike then
stay two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import re2
from sqlalchemy import ColumnElement, Connection, false, or_, select

from control_plane.api.prometheus.expression import EXECUTION, Matcher, QueryError
from control_plane.fleet.rights import Caller
from control_plane.store.tables import series

NAME = "__name__"
LABELS = (NAME, "gateway", "quantity", "sensor", "unit")
COLUMN_OF = {"gateway": series.c.gateway, "quantity": series.c.name, "sensor": series.c.sensor, "unit": series.c.unit}
MOST_SERIES = 500
MOST_PATTERN = 1000
PATTERN_BYTES = 1 << 20
AT_ONCE = 1000
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_FOREIGN = re.compile(r"[^a-zA-Z0-9_:]")
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A series; `labels` without those that are empty."""

    gateway: str
    sensor: str
    name: str
    period_ms: int
    labels: Labels

    @property
    def key(self) -> tuple[str, str]:
        return self.sensor, self.name


def metric(quantity: str) -> str:
    name = _FOREIGN.sub("_", quantity)
    return f"_{name}" if name[:1].isdigit() or not name else name


class Selection:
    """Compiled matchers. A label that a series doesn't have is the empty string, as in Prometheus."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        """Raises QueryError, also for a selection of everything."""
        tests = [(one, _test(one)) for one in matchers]
        if not any(not test("") for _, test in tests):
            raise QueryError("At least one matcher has to leave something out: all series at once are too many.")
        self._tests = tests

    def series(self, connection: Connection, caller: Caller, *, most: int = MOST_SERIES) -> list[Known]:
        """Raises QueryError beyond `most`."""
        found = []
        for one in self.walk(connection, caller):
            found.append(one)
            if len(found) > most:
                raise QueryError(f"More than {most} series; choose fewer of them by their labels.", kind=EXECUTION)
        return found

    def walk(self, connection: Connection, caller: Caller) -> Iterator[Known]:
        c = series.c
        query = select(c.gateway, c.sensor, c.name, c.unit, c.period_ms).where(
            *caller.within(c.gateway), *self._where()
        )
        options = {"stream_results": True, "max_row_buffer": AT_ONCE}
        with connection.execute(query.order_by(c.key), execution_options=options) as rows:
            for gateway, sensor, name, unit, period_ms in rows:
                labels = {NAME: metric(name), "gateway": gateway, "quantity": name, "sensor": sensor}
                labels |= {"unit": unit} if unit else {}
                if self.takes(labels):
                    yield Known(gateway, sensor, name, period_ms, labels)

    def takes(self, labels: Labels) -> bool:
        return all(test(labels.get(matcher.label, "")) for matcher, test in self._tests)

    def _where(self) -> Iterator[ColumnElement[bool]]:
        """What the database can leave out already; `takes` has the last word."""
        for one, _ in self._tests:
            if one.how == "=" and "\0" in one.value:
                raise QueryError("No label holds a NUL character.")
            if one.how == "=" and one.label in COLUMN_OF:
                yield COLUMN_OF[one.label] == one.value
            elif one.how == "=" and one.label == NAME:
                # In LIKE, _ stands for any one character, and so it does here.
                names = [one.value, one.value.removeprefix("_")] if _METRIC.fullmatch(one.value) else []
                yield or_(false(), *(series.c.name.like(name) for name in names))


def _test(matcher: Matcher) -> Callable[[str], bool]:
    """Raises QueryError for a pattern that can't be read, or is too large. Takes linear time, whatever the pattern."""
    value = matcher.value
    if matcher.how in {"=", "!="}:
        return (lambda text: text == value) if matcher.how == "=" else (lambda text: text != value)
    if len(value) > MOST_PATTERN:
        raise QueryError(f"{matcher.label}: a pattern has at most {MOST_PATTERN} characters.")
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES, False
    try:
        pattern = re2.compile(value, options)
    except (re2.error, UnicodeError) as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise QueryError(f"{matcher.label}: {value[:80]!r} is not a pattern of RE2: {why}") from None
    if matcher.how == "=~":
        return lambda text: pattern.fullmatch(text) is not None
    return lambda text: pattern.fullmatch(text) is None
