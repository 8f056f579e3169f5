"""How far a gateway's data is complete in wall time: the lower of both lanes' watermarks.

It does not pass a boot that has no place in time yet: it stays at the last instant known before it, until an anchor
comes or the boot is placed between its neighbours. None where nothing before it is known, or a lane was never heard of:
then nothing is final but by `hold_max`.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, select

from control_plane.projections.walltime import load
from control_plane.store.tables import boot, history, progress, state
from protos.comboio.v1 import batch_pb2 as pb


def watermark_ms(connection: Connection, gateway: str) -> int | None:
    """Wall ms up to which every reading of the gateway's present epoch is resolved."""
    epoch = connection.execute(select(state.c.epoch).where(state.c.gateway == gateway)).scalar_one_or_none()
    if epoch is None:
        return None
    query = select(progress.c.lane, progress.c.complete_boot, progress.c.complete_mono_ms).where(
        progress.c.gateway == gateway, progress.c.epoch == epoch
    )
    lanes = {row.lane: (row.complete_boot, row.complete_mono_ms) for row in connection.execute(query)}
    if not {pb.URGENT, pb.TELEMETRY} <= lanes.keys():
        return None
    number, mono_ms = min(lanes.values())
    blocked = connection.execute(
        select(func.min(boot.c.boot)).where(
            *_mine(gateway, epoch), boot.c.boot < number, boot.c.anchored == 0, boot.c.wall_ms.is_(None)
        )
    ).scalar_one_or_none()
    if blocked is None:
        wall = load(connection, gateway, epoch, number)
        if wall:
            return wall.wall(mono_ms)
    return _before(connection, gateway, epoch, number if blocked is None else blocked)


def _before(connection: Connection, gateway: str, epoch: int, number: int) -> int | None:
    """The last reading of the boot before that one."""
    before = select(func.max(boot.c.boot)).where(*_mine(gateway, epoch), boot.c.boot < number)
    of = connection.execute(before).scalar_one_or_none()
    if of is None:
        return None
    wall = load(connection, gateway, epoch, of)
    mine = (history.c.gateway == gateway, history.c.epoch == epoch, history.c.boot == of)
    last_ms = connection.execute(select(func.max(history.c.last_mono_ms)).where(*mine)).scalar_one_or_none()
    return wall.wall(last_ms) if wall and last_ms is not None else None


def _mine(gateway: str, epoch: int) -> tuple[ColumnElement[bool], ...]:
    return boot.c.gateway == gateway, boot.c.epoch == epoch
