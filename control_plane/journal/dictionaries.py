"""The journal's dictionaries: what batches are packed with, who was issued which, and those compiled for reading.

All of a gateway's are kept: journalled batches name them, and so may batches that still wait on the box.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Row, func, select, text, tuple_, update

from control_plane.store.engine import Store
from control_plane.store.tables import dictionary
from protos import columns
from protos.columns import BodyError, Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

KEPT = 256
"""Compiled ones take about 37 KB each."""
AT_ONCE = 200

Key = tuple[str, int]  # (gateway, name)
T = TypeVar("T")


class Issue(NamedTuple):
    """A gateway's newest dictionary and what was known when it was made."""

    dictionary: Dictionary
    schema: int
    batches: int
    saving: float
    made_ms: int


def in_order(store: Store, connection: Connection) -> None:
    """Numbers are handed out in the order of commits, so that a cursor over them misses nothing.

    SQLite has one writer anyway; on PostgreSQL those who append to the journal take turns per transaction.
    """
    if not store.sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('comboio.journal'))"))


def names(connection: Connection, gateway: str) -> frozenset[int]:
    """What a gateway's dictionaries are called, retired ones too."""
    return frozenset(connection.execute(select(dictionary.c.id).where(dictionary.c.gateway == gateway)).scalars())


def add(connection: Connection, gateway: str, issue: Issue) -> None:
    """Make this the gateway's newest. Raises IntegrityError where its name is taken."""
    held = issue.dictionary
    of = (dictionary.c.gateway == gateway, dictionary.c.retired_ms.is_(None))
    connection.execute(update(dictionary).where(*of).values(retired_ms=issue.made_ms))
    row = {"gateway": gateway, "id": held.id, "sha256": held.sha256, "data": held.data, "schema": issue.schema}
    known = {"batches": issue.batches, "saving": issue.saving, "made_ms": issue.made_ms}
    connection.execute(dictionary.insert(), row | known)


class Issued:
    """Who is to have which dictionary. Synchronous; one thread at a time."""

    def __init__(self, journal: Store) -> None:
        self._journal = journal

    def changed_since(self, number: int) -> tuple[int, set[str]]:
        """(cursor for the next look, gateways whose newest dictionary is another)."""
        with self._journal.read() as connection:
            newest = connection.execute(select(func.max(dictionary.c.number))).scalar_one() or 0
            if newest <= number:
                return number, set()
            query = select(dictionary.c.gateway).where(dictionary.c.number > number)
            return int(newest), set(connection.execute(query).scalars())

    def newest(self, gateways: Sequence[str]) -> dict[str, int]:
        """What each gateway's newest is called, for those that have one."""
        found: dict[str, int] = {}
        columns_ = (dictionary.c.gateway, dictionary.c.id)
        for some in _portions(gateways):
            query = select(*columns_).where(dictionary.c.gateway.in_(some), dictionary.c.retired_ms.is_(None))
            with self._journal.read() as connection:
                found.update((row.gateway, row.id) for row in connection.execute(query))
        return found

    def load(self, gateway: str, name: int) -> wire.Dictionary | None:
        """As it travels; None if it isn't here."""
        query = select(dictionary).where(dictionary.c.gateway == gateway, dictionary.c.id == name)
        with self._journal.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return wire.Dictionary(sha256=row.sha256, data=row.data, schema=row.schema)

    def latest(self, gateway: str) -> Issue | None:
        """The newest of one gateway; None if it has none, or that can't be read."""
        query = select(dictionary).where(dictionary.c.gateway == gateway, dictionary.c.retired_ms.is_(None))
        with self._journal.read() as connection:
            row = connection.execute(query.order_by(dictionary.c.number.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        try:
            held = Dictionary(bytes(row.data), bytes(row.sha256))
        except BodyError:
            return None
        return Issue(held, row.schema, row.batches, row.saving, row.made_ms)

    def counts(self, gateway: str, *, since_ms: int) -> tuple[int, int]:
        """(all dictionaries of a gateway, those trained since then)."""
        of = dictionary.c.gateway == gateway
        recent = (dictionary.c.made_ms >= since_ms, dictionary.c.batches > 0)
        count = select(func.count()).select_from(dictionary).where(of)
        with self._journal.read() as connection:
            every = connection.execute(count).scalar_one()
            return int(every), int(connection.execute(count.where(*recent)).scalar_one())

    def issue(self, gateway: str, issue: Issue) -> bool:
        """Store a trained one, the gateway's newest from now on; False if its name is taken, or none."""
        with self._journal.write() as connection:
            in_order(self._journal, connection)
            if issue.dictionary.id == 0 or issue.dictionary.id in names(connection, gateway):
                return False
            add(connection, gateway, issue)
        return True


class Packed(Protocol):
    """The columns of a journalled batch that unpacking needs."""

    @property
    def codec(self) -> int: ...
    @property
    def dictionary(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def body_len(self) -> int: ...


class Found:
    """What `Dictionaries.find` brought, for unpacking those batches."""

    def __init__(self, held: Mapping[Key, Dictionary | BodyError]) -> None:
        self._held = held

    def unpack(self, gateway: str, row: Packed | Row[Any]) -> bytes:
        """The body of a journalled batch. Raises BodyError."""
        if row.codec != pb.CODEC_ZSTD_DICT:
            return columns.unpack(row.codec, row.body, body_len=row.body_len)
        held = self._held.get((gateway, row.dictionary))
        if held is None:
            raise BodyError(f"dictionary {row.dictionary:08x} is not in the journal")
        if isinstance(held, BodyError):
            raise BodyError(str(held))
        return columns.unpack(row.codec, row.body, body_len=row.body_len, dictionary=held)


class Dictionaries:
    """Those that journalled batches name, checked against their whole SHA-256 and compiled; recently used ones stay.

    Threads may share it. They never change, so nothing kept here grows old.
    """

    def __init__(self, journal: Store, *, kept: int = KEPT) -> None:
        self._journal = journal
        self._kept = kept
        self._compiled: OrderedDict[Key, Dictionary] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, wanted: Collection[Key]) -> Found:
        """Those of these that are here; one query for what is not compiled yet."""
        found: dict[Key, Dictionary | BodyError] = {}
        with self._lock:
            for key in wanted:
                if key in self._compiled:
                    self._compiled.move_to_end(key)
                    found[key] = self._compiled[key]
        for key, held in self._load([key for key in wanted if key not in found]):
            found[key] = held
            if isinstance(held, Dictionary):
                self._keep(key, held)
        return Found(found)

    def _keep(self, key: Key, held: Dictionary) -> None:
        with self._lock:
            self._compiled[key] = held
            while len(self._compiled) > self._kept:
                self._compiled.popitem(last=False)

    def _load(self, wanted: Sequence[Key]) -> Iterator[tuple[Key, Dictionary | BodyError]]:
        key = (dictionary.c.gateway, dictionary.c.id)
        for some in _portions(wanted):
            with self._journal.read() as connection:
                query = select(*key, dictionary.c.sha256, dictionary.c.data).where(tuple_(*key).in_(some))
                rows = connection.execute(query).fetchall()
            for row in rows:
                try:
                    yield (row.gateway, row.id), Dictionary(bytes(row.data), bytes(row.sha256))
                except BodyError as error:
                    yield (row.gateway, row.id), error


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
