from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Row, Table, func, select

from control_plane.api.readings import ReadingsAnswer, ReadingsQuery, ReadingsRoutes
from control_plane.fleet import layers
from control_plane.fleet.layers import Group
from control_plane.journal.sql import SqlJournal
from control_plane.projections.reading import HistoryReader, Readings
from control_plane.projections.roller import Roller
from control_plane.projections.sealer import Sealer
from control_plane.retention import policies
from control_plane.retention.dropping import Retention
from control_plane.retention.evidence import Evidence
from control_plane.retention.policies import Own, Policies
from control_plane.retention.rolling import Places
from control_plane.settings import RetentionSection
from control_plane.store import units
from control_plane.store.engine import Store, Stores
from control_plane.store.units import Unit
from tests.control_plane.projections.conftest import moment
from tests.control_plane.reconcile.plant import Gateway, Road

DAY_MS = 86_400_000


class Kept(Road):
    """The road from the journal to business events, with sealing and retention beside it. `forward` turns its clock."""

    def __init__(self, stores: Stores, **days: float) -> None:
        super().__init__(stores)
        self.set(**days)

    def set(self, **days: float) -> None:
        """The server's setting; what is not named is for ever."""
        usual = dict.fromkeys(RetentionSection().__struct_fields__, 0.0)
        self.policies = Policies(
            business=self.stores.business, defaults=RetentionSection(**(usual | days)), monotonic_s=self._seconds
        )
        self.reader = HistoryReader(journal=self.stores.journal, telemetry=self.stores.telemetry)
        self.evidence = Evidence(stores=self.stores, reader=self.reader)
        self.retention = Retention(self.stores, self.policies, self.evidence, self.clock)
        self._journal = SqlJournal(self.stores.journal, kept_as=self.policies.kept_as)

    def _seconds(self) -> float:
        return self.clock.at_ms / 1000

    def group(self, slug: str, *members: str, priority: int = 0, **days: float) -> None:
        with self.stores.business.write() as connection:
            group = Group(slug, slug, priority, frozenset(members))
            layers.write_group(connection, group, by="a test", now_ms=self.clock.now_ms(), count=False)
            if days:
                version = policies.load(connection).get(slug, (None, 0))[1]
                policies.save(connection, slug, Own(**days), expected=version, by="a test", now_ms=self.clock.now_ms())
        self.forward(seconds=10)

    def forward(self, *, days: float = 0, seconds: float = 0) -> None:
        self.clock.at_ms += round(days * DAY_MS + seconds * 1000)

    def seal(self) -> None:
        """Everything, as if all hours were over; and roll it up."""
        sealer = Sealer(
            telemetry=self.stores.telemetry,
            reader=self.reader,
            clock=self.clock,
            settle_s=0,
            quiet_s=0,
            kept_as=self.policies.kept_as,
        )
        while sealer.step():
            pass
        roller = Roller(telemetry=self.stores.telemetry, reader=self.reader, place=Places(self.policies))
        while roller.step():
            pass

    def drop(self) -> int:
        """All that is over, dividing before; how many units."""
        dropped = 0
        while self.retention.step():
            dropped += 1
        return dropped

    def day(self) -> None:
        """A day passes with the worker's loops."""
        self.forward(days=1)
        self.settle()
        self.seal()
        self.drop()

    def store_of(self, table: Table) -> Store:
        return self.stores.journal if table.name == "batch" else self.stores.telemetry

    def units(self, table: Table) -> list[Unit]:
        with self.store_of(table).read() as connection:
            return units.all_of(connection, table.name)

    def rows(self, table: Table) -> list[Row[Any]]:
        with self.store_of(table).read() as connection:
            return list(connection.execute(select(table).order_by(*table.primary_key.columns)))

    def count(self, table: Table, gateway: Gateway) -> int:
        query = select(func.count()).select_from(table).where(table.c.gateway == gateway.id)
        with self.store_of(table).read() as connection:
            return int(connection.execute(query).scalar_one())

    def read(self, gateway: Gateway, *, from_ms: int = 0, to_ms: int = 1 << 50) -> Readings:
        key = ("cargo", "temperature")
        return self.reader.read(gateway.id, [key], from_ms=from_ms, to_ms=to_ms)[key]

    def answer(
        self, keys: Sequence[str], from_ms: int, to_ms: int, *, max_points: int = 1200, as_of_ms: int | None = None
    ) -> ReadingsAnswer:
        routes = ReadingsRoutes(telemetry=self.stores.telemetry, reader=self.reader, clock=self.clock)
        query = ReadingsQuery(
            series=list(keys),
            from_=moment(from_ms),
            to=moment(to_ms),
            max_points=max_points,
            as_of=None if as_of_ms is None else moment(as_of_ms),
        )
        return routes.readings(query)


@pytest.fixture
def box() -> Gateway:
    return Gateway("gw-aaaaaaaaaa")


@pytest.fixture
def other() -> Gateway:
    return Gateway("gw-bbbbbbbbbb")


@pytest.fixture
def kept(stores: Stores) -> Kept:
    return Kept(stores, raw_days=2.0)
