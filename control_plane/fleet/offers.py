"""What to offer to which connected gateway: read by ingest, from what was saved and what gateways said.

Level-triggered: the difference between what is wanted and what runs is the reason, never an event that could be
missed. Not offered is what a gateway is locally managed against, what it runs already, and content it undid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select

from control_plane.store.engine import Stores
from control_plane.store.tables import config_desired, config_document, config_status
from protos.comboio.v1 import link_pb2 as wire
from protos.offers import signed_bytes

APPLY_WHEN = "now"
CHUNK = 500
DOCUMENTS_KEPT = 64
CONTENT = 100
"""Reasons below speak of the content (see ConfigReason)."""
UNDONE = (wire.CONFIG_REJECTED, wire.CONFIG_ROLLED_BACK, wire.CONFIG_FAILED)
LONGEST_RETRY_MS = 6 * 3_600_000


class Desired(NamedTuple):
    generation: int
    hash: str


class Verdict(NamedTuple):
    """Newest word of a gateway on what is wanted of it.

    `retry_ms`: again, and not before, by this side's clock; 0: at its next connection.
    """

    quarantined: bool = False
    retry_ms: int = 0


@dataclass(slots=True)
class Offers:
    """Synchronous; one thread at a time."""

    stores: Stores
    key: Ed25519PrivateKey
    probation_s: int
    _documents: OrderedDict[str, bytes] = field(default_factory=OrderedDict)

    def changed_since(self, change: int) -> tuple[int, set[str]]:
        """(cursor for the next look, gateways of which something new is wanted)."""
        with self.stores.business.read() as connection:
            newest = connection.execute(select(func.max(config_desired.c.change))).scalar_one() or 0
            if newest <= change:
                return change, set()
            query = select(config_desired.c.gateway).where(config_desired.c.change > change)
            return int(newest), set(connection.execute(query).scalars())

    def desired(self, gateways: Sequence[str]) -> dict[str, Desired]:
        found: dict[str, Desired] = {}
        with self.stores.business.read() as connection:
            for some in _chunks(gateways):
                for row in connection.execute(select(config_desired).where(config_desired.c.gateway.in_(some))):
                    found[row.gateway] = Desired(row.generation, row.hash)
        return found

    def verdicts(self, desired: Mapping[str, Desired]) -> dict[str, Verdict]:
        """What each gateway said last of the content that is wanted of it, whatever the generation."""
        found: dict[str, Verdict] = {}
        with self.stores.journal.read() as connection:
            for some in _chunks(list(desired)):
                query = select(config_status).where(config_status.c.gateway.in_(some)).order_by(config_status.c.id)
                for row in connection.execute(query):
                    wanted = desired[row.gateway]
                    if bytes(row.hash).hex() == wanted.hash and row.phase in UNDONE:
                        found[row.gateway] = _verdict(
                            row.reason, row.retry_at_ms, row.received_ms, found.get(row.gateway)
                        )
                    elif bytes(row.hash).hex() == wanted.hash and row.phase == wire.CONFIG_APPLIED:
                        found.pop(row.gateway, None)
        return found

    def offer(self, gateway: str, wanted: Desired) -> wire.ConfigOffer:
        """Signed by the key the gateway was given at enrolment."""
        said = bytes.fromhex(wanted.hash)
        message = signed_bytes(
            gateway=gateway,
            generation=wanted.generation,
            digest=said,
            apply_when=APPLY_WHEN,
            probation_s=self.probation_s,
        )
        return wire.ConfigOffer(
            generation=wanted.generation,
            hash=said,
            body=self._document(wanted.hash),
            signature=self.key.sign(message),
            apply_when=APPLY_WHEN,
            probation_s=self.probation_s,
        )

    def _document(self, name: str) -> bytes:
        if name not in self._documents:
            with self.stores.business.read() as connection:
                query = select(config_document.c.body).where(config_document.c.hash == name)
                self._documents[name] = bytes(connection.execute(query).scalar_one())
            if len(self._documents) > DOCUMENTS_KEPT:
                self._documents.popitem(last=False)
        self._documents.move_to_end(name)
        return self._documents[name]


def due(running: wire.RunningConfig, wanted: Desired, verdict: Verdict | None, now_ms: int) -> bool:
    """Whether this gateway is to be offered what is wanted of it, now."""
    if running.local_management or running.generation > wanted.generation:
        return False
    runs = running.pushed_hash.hex() == wanted.hash and running.phase != wire.CONFIG_FAILED
    if runs and running.generation == wanted.generation:
        return False
    return runs or verdict is None or (not verdict.quarantined and now_ms >= verdict.retry_ms)


def _verdict(reason: int, retry_at_ms: int, received_ms: int, before: Verdict | None) -> Verdict:
    """Content once undone stays so; a gateway's clock may be anywhere, so its word on time is bounded by ours."""
    if before is not None and before.quarantined:
        return before
    retry_ms = min(max(retry_at_ms, received_ms), received_ms + LONGEST_RETRY_MS) if retry_at_ms else 0
    return Verdict(quarantined=0 < reason < CONTENT, retry_ms=retry_ms)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
