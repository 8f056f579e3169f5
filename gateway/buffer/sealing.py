"""From rows and events to immutable batches. Pure: no files, no clock."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.buffer import tally
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.ledger import Instant
from gateway.reading import Row
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb

Rows = Mapping[int, Sequence[Row]]
MAX_BATCH_READINGS = 250_000  # an encoded body stays well under 1 MiB


@dataclass(frozen=True, slots=True)
class Codebook:
    """What encoding needs of a declaration, compiled once."""

    number: int
    schema: columns.Schema
    late: frozenset[int]
    floats: Mapping[int, tuple[int, ...]]
    """Per group: columns whose rows hold floats although the wire has a learnt decimal scale."""

    @classmethod
    def of(cls, body: pb.Declare, shape: pb.Declare) -> Codebook:
        floats = {
            group.id: tuple(i for i, s in enumerate(plain.series) if s.raw and not group.series[i].raw)
            for group, plain in zip(body.groups, shape.groups, strict=True)
        }
        late = frozenset(g.id for g in body.groups if g.late_source)
        return cls(body.schema, columns.Schema.from_declare(body), late, floats)


def telemetry(
    codebook: Codebook,
    boot: int,
    rows: Rows,
    *,
    first_seq: int,
    complete: Instant,
    before: Instant,
    packer: columns.Packer | None = None,
) -> list[SealedBatch]:
    """Batches of these rows of one boot. Only the last one says `complete`; earlier ones repeat what held `before`."""
    parts = list(_split(rows))
    batches: list[SealedBatch] = []
    for index, part in enumerate(parts):
        blocks = [_block(codebook, group, members) for group, members in part.items() if members]
        body, count = columns.encode(codebook.schema, boot=boot, blocks=blocks)
        said = complete if index == len(parts) - 1 else before
        made = _batch(pb.TELEMETRY, first_seq + index, codebook.number, body, count, said, packer)
        batches.append(replace(made, cells=tally.pack(tally.rows_of(part, boot))))
    return batches


def urgent(
    codebook: Codebook, boot: int, events: Sequence[tuple[int, pb.Event]], *, seq: int, complete: Instant
) -> SealedBatch:
    """One batch of events: (mono_ms, event) each."""
    base = min(mono for mono, _ in events)
    body, count = columns.encode(codebook.schema, boot=boot, blocks=(), events=events, base_mono_ms=base)
    return _batch(pb.URGENT, seq, codebook.number, body, count, complete)


def rewritten(
    codebook: Codebook,
    boot: int,
    blocks: Sequence[columns.Block],
    events: Sequence[tuple[int, pb.Event]],
    *,
    seq: int,
    complete: Instant,
    packer: columns.Packer | None,
) -> SealedBatch:
    """One batch of TELEMETRY made of what other batches held."""
    body, count = columns.encode(codebook.schema, boot=boot, blocks=blocks, events=events)
    return _batch(pb.TELEMETRY, seq, codebook.number, body, count, complete, packer)


def sift(codebook: Codebook, boot: int, rows: Rows) -> tuple[dict[int, list[Row]], dict[int, list[Row]]]:
    """(encodable, refused) rows, for when a driver handed over something its declaration does not allow."""
    good: dict[int, list[Row]] = {}
    refused: dict[int, list[Row]] = {}
    for group, members in rows.items():
        for row in members:
            try:
                columns.encode(codebook.schema, boot=boot, blocks=[_block(codebook, group, [row])])
            except (columns.BodyError, TypeError, ValueError):
                refused.setdefault(group, []).append(row)
            else:
                good.setdefault(group, []).append(row)
    return good, refused


def _batch(
    lane: pb.Lane.ValueType,
    seq: int,
    schema: int,
    body: bytes,
    count: int,
    complete: Instant,
    packer: columns.Packer | None = None,
) -> SealedBatch:
    codec, carried = packer.pack(body) if packer else columns.pack(body)
    return SealedBatch(
        lane=lane,
        seq=seq,
        schema=schema,
        codec=codec,
        dictionary=packer.dictionary.id if packer and codec == pb.CODEC_ZSTD_DICT else 0,
        count=count,
        body_len=len(body),
        crc32=zlib.crc32(carried),
        complete_boot=complete[0],
        complete_mono_ms=complete[1],
        body=carried,
    )


def _block(codebook: Codebook, group: int, rows: Sequence[Row]) -> columns.Block:
    wires: list[Sequence[columns.Wire]] = list(zip(*(row.values for row in rows), strict=True))
    specs = codebook.schema.groups[group].columns
    for index in codebook.floats[group]:
        wires[index] = columns.to_wire(specs[index], wires[index])
    quality = None
    if any(row.quality for row in rows):
        width = len(wires)
        quality = list(zip(*((row.quality or (0,) * width) for row in rows), strict=True))
    device_ms = [row.device_ms or 0 for row in rows] if group in codebook.late else None
    return columns.Block(group, [row.mono_ms for row in rows], wires, quality, device_ms)


def _split(rows: Rows) -> Iterable[Rows]:
    """Rows in parts of bounded size, each group cut at the same fractions."""
    readings = sum(len(members) * len(members[0].values) for members in rows.values() if members)
    parts = -(-readings // MAX_BATCH_READINGS)
    if parts <= 1:
        yield rows
        return
    for part in range(parts):
        yield {
            group: members[len(members) * part // parts : len(members) * (part + 1) // parts]
            for group, members in rows.items()
        }
