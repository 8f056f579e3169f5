"""How far a gateway's data is complete in wall time: the lower of both lanes' watermarks.

None while a boot has no anchor, or a lane was never heard of: then nothing is final but by `hold_max`.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from control_plane.projections.walltime import load
from control_plane.store.tables import progress, state
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
    boot, mono_ms = min(lanes.values())
    wall = load(connection, gateway, epoch, boot)
    return wall.wall(mono_ms) if wall else None
