"""The buffer's contract.

Two layers: an unsealed *tail* (append-only record log) and *sealed batches*. Life cycle and callers:

    pipeline, field, commands → `append`, `lost`, `event`          any time, never block
    uplink                    → `lease`, `ack`, `reject`, `learn`  while connected
    daemon                    → `run` (supervised), `close`

What holds after a crash:

* every row handed to `append` more than 250 ms before a SIGKILL is in exactly one batch afterwards;
* every row whose `Receipt.durable` returned survives a power cut;
* every event is durable before its receipt says so; sealed bodies never change;
* what is missing is inside a gap record: one `restart` gap per group after an unclean stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.reading import Lost, Receipt, Row
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBatch:
    """One immutable batch as it rests; the envelope is made when it is sent."""

    lane: pb.Lane.ValueType
    seq: int
    schema: int
    codec: int
    dictionary: int
    count: int
    body_len: int
    crc32: int
    complete_boot: int
    complete_mono_ms: int
    urgent_seq: int = 0
    body: bytes
    replaces: tuple[tuple[int, int], ...] = ()
    """Ranges of seqs of this lane that a thinned batch stands for."""
    cells: bytes = b""
    """Rows of each group and hour inside, packed by `tally`; for the ledger alone, and only when it is sealed."""

    def envelope(self, epoch: int) -> pb.Batch:
        return pb.Batch(
            epoch=epoch,
            lane=self.lane,
            seq=self.seq,
            schema=self.schema,
            codec=pb.Codec.ValueType(self.codec),
            dictionary=self.dictionary,
            count=self.count,
            body_len=self.body_len,
            body=self.body,
            crc32=self.crc32,
            complete_boot=self.complete_boot,
            complete_mono_ms=self.complete_mono_ms,
            urgent_seq=self.urgent_seq,
            replaces=[pb.Range(first=first, last=last) for first, last in self.replaces],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """Where one lane stands, for Hello and Heartbeat."""

    lane: pb.Lane.ValueType
    next_seq: int
    held: Ranges
    """Also what a held batch stands for."""
    complete_boot: int
    complete_mono_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """Everything of this lane taken up to (boot, mono_ms) is in a seq <= `seq`, or gap-recorded."""

    lane: pb.Lane.ValueType
    seq: int
    boot: int
    mono_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Identity of this opening of the store; constant until it is closed, but for the epoch."""

    epoch: int
    opens: int
    run_id: bytes
    boot: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Moved:
    """The predecessor's seqs of one lane that live on as 1, 2, 3, … of this epoch.

    Below `agreed` a seq of the predecessor is certainly the batch that the server knows by it. `replaced`: seqs of the
    predecessor for which thinned batches among them stand.
    """

    lane: pb.Lane.ValueType
    seqs: Ranges
    replaced: Ranges
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Where this epoch comes from, for Hello; `predecessor` 0: from nowhere.

    `last_session`: the newest in which the server went on with this epoch, 0: none yet.
    """

    predecessor: int = 0
    moved: tuple[Moved, ...] = ()
    last_session: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the buffer holds now."""

    limit_bytes: int
    bytes_on_disk: int = 0
    unsealed_rows: int = 0
    waiting_batches: int = 0  # not acknowledged yet
    waiting_readings: int = 0
    waiting_bytes: int = 0  # their bodies
    oldest_waiting_ms: int = 0  # wall time at which the oldest of them was sealed; 0 = none, or unknown
    kept_batches: int = 0  # acknowledged, kept for a restored server
    dropped_readings: int = 0  # since the store was made; each is in a gap record
    thinned_readings: int = 0  # likewise
    urgent_bytes: int = 0  # of bytes_on_disk: the URGENT lane
    urgent_limit_bytes: int = 0
    written_bytes: int = 0  # passed to write() by this process, tail and sealed


class Buffer(Protocol):
    """Bounded, durable, in order per lane."""

    @property
    def opening(self) -> Opening: ...

    def append(self, group: int, row: Row) -> Receipt:
        """Take one row of the declared group id. When memory is full too, the oldest rows go and a gap says so."""

    def lost(self, group: int, lost: Lost) -> None:
        """Record reads that gave nothing; adjacent ones of one group and reason become one gap."""

    def event(self, kind: pb.EventKind.ValueType, detail: bytes, *, group: int = 0, severity: int = 0) -> Receipt:
        """Put an event in the URGENT lane, sealed within 20 ms.

        Raises `Rejected` for a field event when the lane's quota is used up, and for any when it can't be written.
        From half of the quota on a repeated alarm or silence is joined with its like, and sealed within a minute.
        """

    async def views(self) -> list[LaneView]:
        """Both lanes, URGENT first."""

    def completeness(self) -> list[Completeness]:
        """How far both lanes are complete now; on silence it moves although nothing is sealed."""

    async def descent(self) -> Descent:
        """Where this epoch comes from."""

    async def welcomed(self, session: int, received: Mapping[int, Ranges]) -> None:
        """The server goes on with this store and holds these seqs, by lane: what it lost is offered again.

        Nothing else is under way any more.
        Call it before anything is sent. Durable when it returns; raises OSError.
        """

    async def begin_epoch(self, received: Mapping[int, Ranges]) -> None:
        """Relabel on the server's order; `received`: what it holds of the present epoch. Only while nothing is sent.

        Durable when it returns; raises OSError, and then nothing changed.
        """

    async def schemas(self) -> list[pb.Declare]:
        """Every declaration of this epoch, oldest first."""

    def dictionaries(self) -> list[int]:
        """Names of the dictionaries kept here, for Hello."""

    async def learn(self, dictionary: columns.Dictionary, *, schema: int) -> None:
        """Keep it durably, then seal telemetry with it wherever that is smaller. Raises OSError, BodyError."""

    async def dictionary(self, name: int) -> tuple[columns.Dictionary, int] | None:
        """(dictionary, schema) as kept; None if it isn't, or is damaged."""

    async def give_up_dictionary(self, name: int) -> None:
        """Nobody has this dictionary any more: set aside what can't be read without it, and record the gap."""

    async def lease(
        self, lane: pb.Lane.ValueType, after_seq: int, limit: int, to_seq: int | None = None
    ) -> list[SealedBatch]:
        """The lowest unacknowledged batches above `after_seq`, none above `to_seq`; empty when there are none.

        It changes nothing: what isn't acked comes again.
        """

    async def ack(self, lane: pb.Lane.ValueType, received: Ranges) -> None:
        """These seqs are durable at the server."""

    async def reject(self, lane: pb.Lane.ValueType, seq: int, reason: str) -> None:
        """The server refused this batch for good: set its bytes aside and record the gap."""

    async def wait_sealed(self, timeout: float) -> None:
        """Return when something was sealed since the last call, or after `timeout` seconds."""

    def usage(self) -> Usage: ...
