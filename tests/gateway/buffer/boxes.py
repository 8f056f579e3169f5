"""A buffer on a turned clock, and a reader of what it holds."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.buffer import last_readings
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.disk import DiskBuffer
from gateway.reading import GroupShape, Row, SeriesShape
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection

COOLING = GroupShape(
    sensor="cooling",
    period_ms=1000,
    series=(SeriesShape(name="temperature", unit="Cel", exp=1), SeriesShape(name="door", type=pb.VT_BOOL)),
)
METER = GroupShape(sensor="meter", period_ms=1000, series=(SeriesShape(name="power", raw=True),))


@dataclass
class TurnedClock:
    mono: int = 1_000_000
    wall: int = 1_700_000_000_000
    boot: bytes = b"b" * 16

    def boot_id(self) -> bytes:
        return self.boot

    def mono_ms(self) -> int:
        return self.mono

    def wall_ms(self) -> int:
        return self.wall


@dataclass
class Box:
    """One gateway's folder; `open` may be called again after `kill`."""

    folder: Path
    clock: TurnedClock = field(default_factory=TurnedClock)
    settings: BufferSection = field(default_factory=BufferSection)
    buffer: DiskBuffer = field(init=False)
    ids: list[int] = field(default_factory=list)

    async def open(self, shapes: Sequence[GroupShape] = (COOLING,)) -> DiskBuffer:
        self.buffer = DiskBuffer(self.folder, clock=self.clock, settings=self.settings, batch_interval_s=10)
        self.ids = await self.buffer.open(shapes)
        return self.buffer

    async def kill(self) -> None:
        """SIGKILL: what write() took stays, nothing else happens. The files move on under a new name."""
        copy = self.folder.with_name(self.folder.name + "+")
        shutil.copytree(self.folder, copy)
        await self.buffer.close()
        self.folder = copy

    def row(self, value: int, *, group: int = 0, after_ms: int = 1000) -> None:
        self.clock.mono += after_ms
        self.buffer.append(self.ids[group], Row(self.clock.mono, (value, value % 2)))


async def seal(box: Box, count: int) -> None:
    """So many batches of one row each."""
    for n in range(count):
        box.row(n)
        await box.buffer.seal()


async def batches(buffer: DiskBuffer, lane: pb.Lane.ValueType = pb.TELEMETRY) -> list[SealedBatch]:
    return await buffer.lease(lane, 0, 10_000)


async def values(buffer: DiskBuffer, *, column: int = 0) -> list[columns.Value]:
    """Every value of one column, in order of batches."""
    found: list[columns.Value] = []
    for block in await blocks(buffer):
        found += block.columns[column]
    return found


async def blocks(buffer: DiskBuffer) -> list[columns.DecodedBlock]:
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    found: list[columns.DecodedBlock] = []
    for batch in await batches(buffer):
        body = await plain(buffer, batch)
        found += columns.decode(schemas[batch.schema], body, count=batch.count).blocks
    return found


async def plain(buffer: DiskBuffer, batch: SealedBatch) -> bytes:
    """The body, unpacked with the dictionary it names."""
    held = await buffer.dictionary(batch.dictionary) if batch.codec == pb.CODEC_ZSTD_DICT else None
    dictionary = held[0] if held else None
    return columns.unpack(batch.codec, batch.body, body_len=batch.body_len, dictionary=dictionary)


async def gaps(buffer: DiskBuffer) -> list[pb.Gap]:
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await buffer.schemas()}
    found: list[pb.Gap] = []
    for batch in await batches(buffer, pb.URGENT):
        body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
        for _, event in columns.decode(schemas[batch.schema], body, count=batch.count).events:
            if event.kind == pb.EVENT_GAP:
                found.append(pb.Gap.FromString(event.detail))
    return found


def as_rows(db: sqlite3.Connection, *, in_hour: bool = False) -> None:
    """A store's last readings as files before format 5 had them, in formats 3 and 4 with the rows of their hour."""
    lasts = last_readings.load(db.execute)
    db.execute("DROP TABLE last_readings")
    db.execute("DROP TABLE restart_told")
    db.execute(
        "CREATE TABLE last_reading(group_id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, mono_ms INTEGER NOT NULL)"
    )
    if in_hour:
        db.execute("ALTER TABLE last_reading ADD COLUMN in_hour INTEGER NOT NULL DEFAULT 0")
    for group, last in lasts.items():
        row = (group, *last) if in_hour else (group, last.boot, last.mono_ms)
        db.execute(f"INSERT INTO last_reading VALUES({', '.join('?' * len(row))})", row)
