"""What reached the control plane's journal from one gateway, decoded and checked read by read.

In counting mode each value tells which read of its device it was, so the far end alone can say: nothing wrong (every
column of a row is of the same read), nothing doubled and nothing lost (the reads of a device are consecutive).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sqlalchemy import func, select

from control_plane.store import tables
from control_plane.store.engine import Stores
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb

MODULUS = 65536
POLL_S = 0.005


@dataclass(slots=True)
class Tally:
    """`reads` per sensor; `lost` are reads missing between two that arrived and inside no gap record."""

    readings: int = 0
    reads: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    in_gaps: int = 0
    wrong: int = 0
    doubled: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch in the journal and when it was first seen there (monotonic s)."""

    id: int
    at_s: float


class FarEnd:
    """The journal of one installation, as seen by one gateway's batches."""

    def __init__(self, stores: Stores, gateway: str) -> None:
        self._stores = stores
        self._gateway = gateway

    def next_arrival(self, *, after: int = 0, timeout_s: float = 60.0) -> Arrival:
        """Wait for a telemetry batch newer than that. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            newest = self.newest()
            if newest > after:
                return Arrival(newest, time.monotonic())
            time.sleep(POLL_S)
        raise TimeoutError(f"{self._gateway}: nothing arrived within {timeout_s:.0f} s")

    def newest(self) -> int:
        """Id of the newest telemetry batch, 0 without one."""
        mine = tables.batch.c.gateway == self._gateway, tables.batch.c.lane == pb.TELEMETRY
        with self._stores.journal.read() as run:
            return int(run.execute(select(func.max(tables.batch.c.id)).where(*mine)).scalar() or 0)

    def readings(self, *, after: int, to: int) -> int:
        """Readings in the batches `after` < id <= `to`."""
        batch = tables.batch.c
        query = select(func.sum(batch["count"])).where(
            batch.gateway == self._gateway, batch.lane == pb.TELEMETRY, batch.id > after, batch.id <= to
        )
        with self._stores.journal.read() as run:
            return int(run.execute(query).scalar() or 0)

    def tally(self, units: dict[str, int]) -> Tally:
        """Check everything that arrived from devices in counting mode; `units` are the unit ids by sensor.

        Readings of other sensors are counted and not looked at.
        """
        with self._stores.journal.read() as run:
            declares = run.execute(
                select(tables.declare.c.schema, tables.declare.c.body).where(tables.declare.c.gateway == self._gateway)
            ).all()
            batch = tables.batch.c
            rows = run.execute(
                select(batch.lane, batch.schema, batch.codec, batch.body_len, batch["count"], batch.body)
                .where(batch.gateway == self._gateway)
                .order_by(batch.lane.desc(), batch.seq)
            ).all()
        schemas = {number: columns.Schema.from_declare(pb.Declare.FromString(body)) for number, body in declares}
        found = Tally()
        gaps: dict[str, int] = {}
        reads: dict[str, list[int]] = {sensor: [] for sensor in units}
        for lane, schema, codec, body_len, count, body in rows:
            plain = columns.unpack(codec, body, body_len=body_len)
            decoded = columns.decode(schemas[schema], plain, count=count)
            if lane == pb.URGENT:
                _count_gaps(decoded, schemas[schema], gaps)
                continue
            found.readings += count
            for block in decoded.blocks:
                sensor = schemas[schema].groups[block.group].sensor
                if sensor not in units:
                    continue
                ks, wrong = _reads(block.columns, units[sensor])
                reads[sensor] += ks
                found.wrong += wrong
        for sensor, ks in reads.items():
            _judge(found, sensor, ks, gaps.get(sensor, 0))
        return found


def _count_gaps(decoded: columns.Decoded, schema: columns.Schema, gaps: dict[str, int]) -> None:
    for _, event in decoded.events:
        if event.kind == pb.EVENT_GAP:
            gap = pb.Gap.FromString(event.detail)
            sensor = schema.groups[gap.group].sensor if gap.group else ""
            gaps[sensor] = gaps.get(sensor, 0) + gap.count


def _reads(values: Sequence[Sequence[columns.Value]], unit: int) -> tuple[list[int], int]:
    """The number of the read per row, modulo 65536, and how many values belong to another one."""
    first = [_number(value, unit, 0) for value in values[0]]
    wrong = 0
    for address, column in enumerate(values):
        wrong += sum(_number(value, unit, address) != k for value, k in zip(column, first, strict=True))
    return first, wrong


def _number(value: columns.Value, unit: int, address: int) -> int:
    assert isinstance(value, int)
    return (value - 997 * unit - 31 * address) % MODULUS


def _judge(found: Tally, sensor: str, ks: Sequence[int], in_gaps: int) -> None:
    found.reads[sensor] = len(ks)
    missing = 0
    for before, after in pairwise(ks):
        step = (after - before) % MODULUS
        if step == 0 or step > MODULUS // 2:
            found.doubled += 1
        else:
            missing += step - 1
    found.in_gaps += min(missing, in_gaps)
    found.lost += max(0, missing - in_gaps)
