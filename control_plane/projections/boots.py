"""Which boots of a gateway were ever heard of, and whether an anchor places them.

A row comes in the transaction that projects the first batch of a boot, so that nothing can pass a boot whose readings
are here and have no place in time yet.
"""

from __future__ import annotations

from sqlalchemy import Connection

from control_plane.projections.projection import Portion
from control_plane.store.tables import boot
from control_plane.store.upsert import insert, keep_first

KNOWN = 50_000


class BootsProjection:
    """Owns `boot`, but for what `placing` writes there."""

    def __init__(self) -> None:
        self._known: set[tuple[str, int, int]] = set()

    def forget(self) -> None:
        self._known.clear()

    def apply(self, connection: Connection, portion: Portion) -> None:
        for decoded in portion.decoded:
            for envelope, number in zip(decoded.envelopes, decoded.bulk.boot.tolist(), strict=True):
                key = (envelope.gateway, envelope.epoch, number)
                if key not in self._known and number:
                    self._known.add(key)
                    keep_first(connection, boot, _row(*key, portion.now_ms) | {"anchored": 0})
        if len(self._known) > KNOWN:
            self._known.clear()


def anchored(connection: Connection, gateway: str, epoch: int, number: int, now_ms: int) -> None:
    """An anchor of that boot was projected."""
    fresh = insert(connection, boot)
    changed = fresh.on_conflict_do_update(index_elements=list(boot.primary_key), set_={"anchored": 1})
    connection.execute(changed, _row(gateway, epoch, number, now_ms) | {"anchored": 1})


def _row(gateway: str, epoch: int, number: int, now_ms: int) -> dict[str, object]:
    return {"gateway": gateway, "epoch": epoch, "boot": number, "first_ms": now_ms}
