"""GET /events/{id}/evidence: what an event rests on, byte for byte as its gateway sent it."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Row, select, tuple_

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import PageQuery, cursor, moment
from control_plane.api.subjects import visible
from control_plane.errors import NotFound
from control_plane.fleet.rights import EVERYTHING, Caller
from control_plane.retention.evidence import Evidence
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, declare, dictionary, event
from protos.comboio.v1 import batch_pb2 as pb


class EvidenceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it came. `codec`, `dictionary`, `body_len` and `count` are what unpacking and decoding `body` take."""

    gateway: str
    epoch: int
    lane: str
    seq: int
    schema: int
    codec: str
    dictionary: int
    count: int
    body_len: int
    crc32: int
    received: datetime
    sha256: str
    body: str
    """Base64, as carried."""


class EvidencePart(msgspec.Struct, frozen=True, kw_only=True):
    """A Declare (`number`: its schema) or a dictionary (its id), serialized as it came."""

    gateway: str
    epoch: int
    number: int
    sha256: str
    body: str
    """Base64."""


class EvidenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    event: str
    batches: list[EvidenceBatch]
    declares: list[EvidencePart]
    """Those that the batches name."""
    dictionaries: list[EvidencePart]
    missing: int
    """Batches that it rests on and that are not kept any more: it was decided after they had gone."""
    next: str | None


class EvidenceQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class EvidenceRoutes:
    def __init__(self, *, stores: Stores, evidence: Evidence) -> None:
        self._stores = stores
        self._evidence = evidence

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/events/{event_id}/evidence",
                view=self.get,
                permission=Permission.VIEWER,
                summary="The batches, declarations and dictionaries that an event rests on, as they came",
                problems=(404,),
            ),
        )

    def get(self, event_id: str, query: EvidenceQuery, caller: Caller = EVERYTHING) -> EvidenceAnswer:
        (after,) = query.after(int) or (0,)
        with self._stores.business.read() as connection:
            row = connection.execute(select(event).where(event.c.id == event_id)).one_or_none()
        if row is None or not visible(caller, row.subject):
            raise NotFound(f"There is no event {event_id}.")
        ids = [id_ for id_ in self._evidence.of(row) if id_ > after]
        some = ids[: query.limit]
        with self._stores.journal.read() as connection:
            found = connection.execute(select(batch).where(batch.c.id.in_(some)).order_by(batch.c.id)).fetchall()
            schemas = {(one.gateway, one.epoch, one.schema) for one in found}
            named = tuple_(declare.c.gateway, declare.c.epoch, declare.c.schema)
            declares = connection.execute(select(declare).where(named.in_(sorted(schemas)))).fetchall()
            packed = {(one.gateway, one.dictionary) for one in found if one.codec == pb.CODEC_ZSTD_DICT}
            by = tuple_(dictionary.c.gateway, dictionary.c.id)
            dictionaries = connection.execute(select(dictionary).where(by.in_(sorted(packed)))).fetchall()
        return EvidenceAnswer(
            event=event_id,
            batches=[_batch(one) for one in found],
            declares=[_part(one.gateway, one.epoch, one.schema, one.body) for one in declares],
            dictionaries=[_part(one.gateway, 0, one.id, one.data) for one in dictionaries],
            missing=len(some) - len(found),
            next=cursor(some[-1]) if len(ids) > len(some) else None,
        )


def _batch(row: Row[Any]) -> EvidenceBatch:
    said = row._mapping  # noqa: SLF001 - a row is also a tuple, with a count of its own
    return EvidenceBatch(
        gateway=row.gateway,
        epoch=row.epoch,
        lane=pb.Lane.Name(row.lane).lower(),
        seq=row.seq,
        schema=row.schema,
        codec=pb.Codec.Name(row.codec),
        dictionary=row.dictionary,
        count=said["count"],
        body_len=row.body_len,
        crc32=row.crc32,
        received=moment(row.received_ms),
        sha256=hashlib.sha256(row.body).hexdigest(),
        body=base64.b64encode(row.body).decode(),
    )


def _part(gateway: str, epoch: int, number: int, body: bytes) -> EvidencePart:
    digest, text = hashlib.sha256(body).hexdigest(), base64.b64encode(body).decode()
    return EvidencePart(gateway=gateway, epoch=epoch, number=number, sha256=digest, body=text)
