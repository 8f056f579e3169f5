"""The contract of a projection, and what it is handed.

The projector reads the journal in order, decodes many batches at once and hands the result to every projection inside
one transaction of the telemetry store that also moves the cursor. So a projection sees each batch once, in journal
order per gateway, and never half: it needs no dedupe of its own. It may keep caches of what it wrote; `forget` is
called when a transaction failed, and it must then reload from the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

from control_plane.projections.decode import Bulk
from protos.comboio.v1 import batch_pb2 as pb


class Envelope(NamedTuple):
    """A journalled batch without its body."""

    id: int
    gateway: str
    epoch: int
    lane: int
    seq: int
    schema: int
    readings: int
    complete_boot: int
    complete_mono_ms: int
    urgent_seq: int
    received_ms: int
    replaces: tuple[tuple[int, int], ...] = ()
    """Ranges of seqs of the same lane that a thinned batch stands for."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Batches decoded together: `envelopes[i]` is body i of `bulk`, and `declares[i]` what it was decoded by."""

    envelopes: Sequence[Envelope]
    bulk: Bulk
    declares: Sequence[pb.Declare]


class Bad(NamedTuple):
    """A batch that can't be decoded today; its bytes stay in the journal."""

    envelope: Envelope
    error: str


@dataclass(frozen=True, slots=True)
class Portion:
    """What one transaction projects."""

    decoded: Sequence[Decoded]
    bad: Sequence[Bad]
    now_ms: int
    doubled: Mapping[str, int] = field(default_factory=dict)
    """Gateway → readings that came thinned and whole: they count once."""


class Projection(Protocol):
    def apply(self, connection: Connection, portion: Portion) -> None:
        """Write what follows from these batches."""

    def forget(self) -> None:
        """Drop caches: the last transaction did not commit."""
