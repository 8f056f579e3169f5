"""Latest value per series: one compact row per gateway.

Body of a row: n u32, then n records of series id u32, boot u32, mono ms i64, value f64, quality u8, by series id.
Later means (boot, mono): a reading older than what is there changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, update

from control_plane.projections.projection import Decoded, Envelope, Portion
from control_plane.store.tables import state
from control_plane.store.upsert import bulk_upsert

ROW = np.dtype([("series", "<u4"), ("boot", "<u4"), ("mono_ms", "<i8"), ("value", "<f8"), ("quality", "u1")])
_HEAD = struct.Struct("<I")
Rows = NDArray[np.void]


@dataclass(slots=True)
class Latest:
    epoch: int
    readings: int
    rows: Rows


def unpack(body: bytes) -> Rows:
    (n,) = _HEAD.unpack_from(body)
    return np.frombuffer(body, ROW, n, _HEAD.size).copy()


def pack(rows: Rows) -> bytes:
    return _HEAD.pack(len(rows)) + rows.tobytes()


def begin_epoch(connection: Connection, gateway: str, epoch: int) -> None:
    """From now on this epoch is the gateway's present one: nothing is known of it yet."""
    row = (state.c.gateway == gateway, state.c.epoch != epoch)
    connection.execute(update(state).where(*row).values(epoch=epoch, body=pack(np.empty(0, ROW))))


class StateProjection:
    def __init__(self) -> None:
        self._known: dict[str, Latest] = {}
        self._write = bulk_upsert(state, ("gateway", "epoch", "updated_ms", "readings", "body"))

    def forget(self) -> None:
        self._known.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        touched: set[str] = set()
        for decoded in portion.decoded:
            touched |= self._take(connection, decoded)
        for gateway in touched & portion.doubled.keys():
            self._known[gateway].readings -= portion.doubled[gateway]
        self._write(connection, [self._row(gateway, portion.now_ms) for gateway in sorted(touched)])

    def _row(self, gateway: str, now_ms: int) -> dict[str, object]:
        latest = self._known[gateway]
        return {
            "gateway": gateway,
            "epoch": latest.epoch,
            "updated_ms": now_ms,
            "readings": latest.readings,
            "body": pack(latest.rows),
        }

    def _take(self, connection: Connection, decoded: Decoded) -> set[str]:
        """All gateways at once: what is there and what came are ordered together; the latest of each series stay."""
        bulk = decoded.bulk
        if not len(bulk.col_occ):
            return set()
        body = bulk.batch[bulk.col_occ]
        seen = np.empty(len(body), ROW)
        seen["series"] = bulk.table.ids[bulk.series]
        seen["boot"] = bulk.boot[body]
        seen["mono_ms"] = bulk.last_time
        seen["value"] = bulk.last_value
        seen["quality"] = bulk.last_quality
        filled = np.bincount(body, minlength=len(decoded.envelopes)) > 0
        news, of = self._news(connection, decoded.envelopes, filled.tolist())
        owner = of[body]
        if (owner < 0).any():
            seen, owner = seen[owner >= 0], owner[owner >= 0]
        known = [one.rows for one in news.values()]
        rows = np.concatenate([*(_plain(each) for each in known), _plain(seen)]).view(ROW)
        owner = np.concatenate((np.repeat(np.arange(len(known)), [len(each) for each in known]), owner))
        latest, owner = _latest(rows, owner)
        ends = np.searchsorted(owner, np.arange(len(known)), side="right").tolist()
        start = 0
        for one, end in zip(news.values(), ends, strict=True):
            one.rows = latest[start:end].copy()
            start = end
        self._known.update(news)
        return set(news)

    def _news(
        self, connection: Connection, envelopes: Sequence[Envelope], filled: Sequence[bool]
    ) -> tuple[dict[str, Latest], NDArray[np.int64]]:
        """Each gateway as it was, its readings counted on; and per envelope which of them it is of.

        An envelope of another epoch than the one before it empties what is known: those before it are of nobody (-1).
        """
        news: dict[str, Latest] = {}
        number: dict[str, int] = {}
        of = np.full(len(envelopes), -1, np.int64)
        for index, (envelope, any_) in enumerate(zip(envelopes, filled, strict=True)):
            if not any_:
                continue
            gateway = envelope.gateway
            one = news.get(gateway)
            if one is None:
                held = self._known.get(gateway) or self._load(connection, gateway, envelope.epoch)
                one = news[gateway] = Latest(held.epoch, held.readings, held.rows)
                number[gateway] = len(number)
            if one.epoch != envelope.epoch:
                one.epoch, one.rows = envelope.epoch, np.empty(0, ROW)
                of[of == number[gateway]] = -1
            one.readings += envelope.readings
            of[index] = number[gateway]
        return news, of

    def _load(self, connection: Connection, gateway: str, epoch: int) -> Latest:
        row = connection.execute(select(state).where(state.c.gateway == gateway)).one_or_none()
        if row is None:
            return Latest(epoch, 0, np.empty(0, ROW))
        return Latest(row.epoch, row.readings, unpack(row.body))


def _plain(rows: Rows) -> Rows:
    """The same as opaque records: numpy joins those many times faster than records with fields."""
    return rows.view(np.dtype((np.void, ROW.itemsize)))


def _latest(rows: Rows, owner: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Of each owner and series the row with the highest (boot, mono), the later of equals; by owner and series."""
    key = owner << 32 | rows["series"]
    order = np.argsort(key, kind="stable")
    key = key[order]
    begins = np.flatnonzero(np.append([True], key[1:] != key[:-1]))
    sizes = np.diff(np.append(begins, key.size))
    place = np.arange(key.size)
    for stamp in (rows["boot"][order], rows["mono_ms"][order]):
        # Those that are behind leave the race; the last of those that remain wins.
        racing = np.where(place >= 0, stamp, -1)
        best = np.repeat(np.maximum.reduceat(racing, begins), sizes)
        place = np.where((racing == best) & (place >= 0), place, -1)
    last = order[np.maximum.reduceat(place, begins)]
    return rows[last], owner[last]
