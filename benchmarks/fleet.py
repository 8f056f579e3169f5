"""A fleet on paper for load tests: certificates, declarations and sealed batches, no two alike.

Windows of the mixed gateway are encoded by the shipped encoder. Each gateway draws its own seeded sequence of them,
with its own uptime (so its own bytes) and its own declared references (so its own schema and its own values); each
batch follows the one before it in time, and those of `sealable` are an hour before the rest. All are packed as the
gateway packs them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks import mixed
from benchmarks.recordings import Column, Recording, Traffic, cuts, folder, traffic
from control_plane.clock import SystemClock
from control_plane.dictionaries.candidate import train
from control_plane.fleet.authority import Authority
from protos.columns import Dictionary, Packer, encode, pack
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS

BOOT = 17
SECONDS = 4000  # of the mixed gateway; enough windows to draw from
WINDOWS = 60
SEED = 29
QUICK_LEVEL = 3
"""Of packing with thousands of dictionaries: it is not their size that is measured here."""
WALL_MS = 1_700_000_000_000


class Sealed(msgspec.Struct, array_like=True, frozen=True):
    """A serialized Batch without its seq, which is the last field added."""

    count: int
    envelope: bytes


class Member(msgspec.Struct, array_like=True, frozen=True):
    """One gateway: `certificate` is a file of key and chain."""

    gateway: str
    certificate: str
    epoch: int
    declare: bytes
    batches: list[Sealed]
    dictionary: bytes = b""
    """The gateway's own; its batches are packed with it where that is smaller."""


class Window(msgspec.Struct):
    body: pb.Body
    count: int
    length_ms: int


class Maker:
    """Makes fleets from one load of the recordings, which takes longer than all else. `folder` gets certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.open(folder)
        self.folder = folder
        self.kind, self._source = _source()

    def make(
        self, *, gateways: int, batches: int, batch_s: int, sealable: int = 0, dictionaries: bool = False
    ) -> list[Member]:
        """The first `sealable` of so many batches each are of an hour that is over when the next one comes.

        `dictionaries`: each gateway has one of its own.
        """
        windows = list(_windows(self._source, batch_s * 1000))
        random = Random(SEED * batch_s)
        learnt = train([one.body.SerializeToString() for one in windows], 1) if dictionaries else None
        return [
            self._member(number, windows, random, batches, sealable, learnt and _own(learnt, number))
            for number in range(gateways)
        ]

    def _member(
        self,
        number: int,
        windows: Sequence[Window],
        random: Random,
        batches: int,
        sealable: int,
        dictionary: Dictionary | None,
    ) -> Member:
        gateway, epoch = f"gw-{number:010d}", random.getrandbits(32)
        declare = pb.Declare(epoch=epoch, schema=1, groups=self._source.declare.groups)
        for group in declare.groups:
            for series in group.series:
                series.ref += 0 if series.raw else random.randrange(-500, 500)
        base_ms = random.randrange(1 << 34) // HOUR_MS * HOUR_MS
        sealed = []
        packer = None if dictionary is None else Packer(dictionary, level=QUICK_LEVEL)
        for index in range(batches):
            hour = 0 if index < sealable else HOUR_MS
            anchor = _anchor(base_ms) if index == 0 else None
            sealed.append(_sealed(random.choice(windows), epoch, base_ms + hour, index, anchor, packer))
        certificate = _certificate(self.authority, self.folder, gateway)
        held = b"" if dictionary is None else dictionary.data
        return Member(gateway, certificate, epoch, declare.SerializeToString(), sealed, held)


def _source() -> tuple[str, Traffic]:
    kind, recordings = mixed.mixed(folder())
    return kind, traffic([_shortened(one) for one in recordings])


def _shortened(one: Recording) -> Recording:
    rows = max(2, SECONDS * 1000 // one.period_ms)
    return Recording(one.name, one.period_ms, one.times[:rows], [Column(c.name, c.values[:rows]) for c in one.columns])


def _windows(source: Traffic, batch_ms: int) -> Iterator[Window]:
    first, last = source.span
    chosen = cuts(source, batch_ms=batch_ms, from_ms=first + 20_000, to_ms=last)
    for cut, _ in zip(chosen, range(WINDOWS), strict=False):
        body, count = encode(source.schema, boot=BOOT, blocks=cut.blocks, base_mono_ms=cut.end_ms - batch_ms)
        yield Window(pb.Body.FromString(body), count, batch_ms)


def _anchor(base_ms: int) -> pb.Event:
    """Places the boot in wall time; without one nobody could ask for its history."""
    fact = pb.Anchor(boot=BOOT, mono_ms=base_ms, wall_ms=WALL_MS, err_ms=5, source=pb.CLOCK_NTP)
    return pb.Event(kind=pb.EVENT_ANCHOR, detail=fact.SerializeToString())


def _own(learnt: Dictionary, number: int) -> Dictionary:
    """Another one, as good: some of what it holds gives way to a number."""
    data, middle = learnt.data, len(learnt.data) // 2
    return Dictionary(data[:middle] + b"%08d" % number + data[middle + 8 :])


def _sealed(
    window: Window, epoch: int, base_ms: int, index: int, event: pb.Event | None, packer: Packer | None
) -> Sealed:
    window.body.base_mono_ms = base_ms + index * window.length_ms
    events = [] if event is None else [event]
    body = window.body.SerializeToString() + pb.Body(events=events).SerializeToString()
    codec, packed = pack(body) if packer is None else packer.pack(body)
    batch = pb.Batch(
        epoch=epoch,
        schema=1,
        codec=codec,
        dictionary=packer.dictionary.id if packer is not None and codec == pb.CODEC_ZSTD_DICT else 0,
        count=window.count,
        body_len=len(body),
        body=packed,
        crc32=zlib.crc32(packed),
        complete_boot=BOOT,
        complete_mono_ms=base_ms + (index + 1) * window.length_ms,
    )
    return Sealed(window.count, batch.SerializeToString())


def _certificate(authority: Authority, path: Path, gateway: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = authority.sign_gateway(key.public_key(), gateway, now_ms=SystemClock().now_ms())
    file = path / f"{gateway}.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain.public_bytes(Encoding.PEM)
    )
    return str(file)
