"""Entries as rows of the journal's tables."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from control_plane.journal.journal import (
    BatchEntry,
    DuplicateEntry,
    EffectiveEntry,
    HeartbeatEntry,
    LaneMark,
    OfferEntry,
    PresenceEntry,
    RejectEntry,
    StatusEntry,
)
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

_PAIR = struct.Struct("<QQ")
TEXT_LIMIT = 1000


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(_PAIR.pack(*pair) for pair in ranges)


def unpack_ranges(data: bytes) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in _PAIR.iter_unpack(data))


def batch_row(entry: BatchEntry) -> dict[str, object]:
    b = entry.batch
    extra = None
    if b.replaces or b.signature:
        extra = pb.Batch(replaces=b.replaces, signature=b.signature).SerializeToString()
    return {
        "gateway": entry.gateway,
        "epoch": b.epoch,
        "lane": b.lane,
        "seq": b.seq,
        "schema": b.schema,
        "codec": b.codec,
        "dictionary": b.dictionary,
        "count": b.count,
        "body_len": b.body_len,
        "crc32": b.crc32,
        "complete_boot": b.complete_boot,
        "complete_mono_ms": b.complete_mono_ms,
        "urgent_seq": b.urgent_seq,
        "received_ms": entry.received_ms,
        "extra": extra,
        "body": b.body,
    }


def lane_row(mark: LaneMark, session: int) -> dict[str, object]:
    return {
        "gateway": mark.gateway,
        "epoch": mark.epoch,
        "lane": mark.lane,
        "cum": mark.cum,
        "above": pack_ranges(mark.above),
        "max_seen": mark.max_seen,
        "session": session,
    }


def reject_row(entry: RejectEntry) -> dict[str, object]:
    r = entry.reject
    return {
        "gateway": entry.gateway,
        "epoch": r.epoch,
        "lane": r.lane,
        "seq": r.seq,
        "code": r.code,
        "reason": r.reason,
        "received_ms": entry.received_ms,
    }


def heartbeat_row(entry: HeartbeatEntry, said: wire.LaneComplete) -> dict[str, object]:
    return {
        "gateway": entry.gateway,
        "epoch": entry.epoch,
        "lane": said.lane,
        "seq": said.seq,
        "complete_boot": said.complete_to.boot,
        "complete_mono_ms": said.complete_to.mono_ms,
        "received_ms": entry.received_ms,
    }


HELLO = ("gateway", "session", "epoch", "opens", "run_id", "boot", "boot_id", "received_ms", "body", "why")


def hello_row(gateway: str, number: int, said: wire.Hello, now_ms: int, why: str | None) -> dict[str, object]:
    facts = (said.epoch, said.opens, said.run_id, said.boot, said.boot_id, now_ms, said.SerializeToString(), why)
    return dict(zip(HELLO, (gateway, number, *facts), strict=True))


def presence_row(gateway: str, number: int, said: wire.Hello, now_ms: int, server: str) -> dict[str, object]:
    return {
        "gateway": gateway,
        "session": number,
        "connected_ms": now_ms,
        "heard_ms": now_ms,
        "left_ms": None,
        "version": text(said.version),
        "heartbeat": None,
        "running": said.running.SerializeToString() if said.HasField("running") else None,
        "why": None,
        "server": server,
        "paced": "",
    }


def heard_row(entry: PresenceEntry) -> dict[str, object]:
    return {
        "of": entry.gateway,
        "in_session": entry.session,
        "heard": entry.heard_ms,
        "left": entry.left_ms,
        "because": entry.why,
        "said": entry.heartbeat,
        "runs": entry.running,
        "pace": entry.paced,
    }


def text(said: str) -> str:
    """What a column can hold: PostgreSQL refuses NUL."""
    return said.replace("\0", "")[:TEXT_LIMIT]


def offer_row(entry: OfferEntry) -> dict[str, object]:
    return entry._asdict()


def status_row(entry: StatusEntry) -> dict[str, object]:
    said = entry.status
    return {
        "gateway": entry.gateway,
        "generation": said.generation,
        "hash": said.hash,
        "phase": said.phase,
        "reason": said.reason,
        "pointer": text(said.pointer),
        "text": text(said.text),
        "retry_at_ms": said.retry_at_ms,
        "received_ms": entry.received_ms,
    }


def effective_row(entry: EffectiveEntry) -> dict[str, object]:
    said = entry.effective
    return {
        "gateway": entry.gateway,
        "pushed_hash": said.pushed_hash,
        "local_hash": said.local_hash,
        "body": said.body,
        "received_ms": entry.received_ms,
    }


def repeat_row(entry: DuplicateEntry, *, times: int) -> dict[str, object]:
    b = entry.batch
    return {
        "gateway": entry.gateway,
        "epoch": b.epoch,
        "lane": b.lane,
        "seq": b.seq,
        "times": times,
        "received_ms": entry.received_ms,
    }


def conflict_row(entry: DuplicateEntry) -> dict[str, object]:
    b = entry.batch
    return {
        "gateway": entry.gateway,
        "epoch": b.epoch,
        "lane": b.lane,
        "seq": b.seq,
        "crc32": b.crc32,
        "received_ms": entry.received_ms,
        "body": b.SerializeToString(),
    }
