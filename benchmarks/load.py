"""A fleet of gateways in one process on one epoll loop, by the simulator's light streams.

    python -m benchmarks.load --address HOST:PORT --ca FILE --fleet FILE [--phase RATE:SECONDS | each:N …]

Every gateway has its own certificate, connection and stream, says Hello and Declare, and sends its first batch. Then
`{"ready": …}` is printed, and each line on stdin starts the next phase: RATE batches a second in all, spread evenly
over the gateways in a shuffled order, whatever the server does (RATE 0: each gateway keeps one batch in flight, until
SECONDS are over, or `each:N` until it has sent N). A phase ends when all of it is acknowledged; it is reported as one
line of JSON. Latency runs from the moment a batch was due to the ack that covers it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from benchmarks.fleet import Member
from control_plane.simulators.link_stream import DATA, LARGEST_FRAME, Stream, StreamError
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

DRAIN_S = 60.0
LONGEST_FILL_S = 300.0
MOST_OPENING = 20
SEQ_BYTES = 6  # tag and a varint padded to five bytes, so that its length never changes


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def padded_seq(seq: int) -> bytes:
    """Field `seq` of a Batch."""
    return bytes((0x18, *(seq >> shift & 127 | 128 for shift in (0, 7, 14, 21)), seq >> 28 & 127))


def template(envelope: bytes) -> bytes:
    """The frame of an Uplink with this batch, all but its seq."""
    inner = len(envelope) + SEQ_BYTES
    uplink = b"\x1a" + varint(inner) + envelope
    whole = len(uplink) + SEQ_BYTES
    if whole + 5 > LARGEST_FRAME:
        raise StreamError(f"a batch of {whole} bytes needs more than one frame")
    header = struct.pack(">I", whole + 5)[1:] + bytes((DATA, 0)) + struct.pack(">I", 1)
    return header + struct.pack(">BI", 0, whole) + uplink


class Gateway(Stream):
    """One connection; a batch is a template and a seq."""

    def __init__(self, member: Member, address: tuple[str, int], ca: str) -> None:
        self.member = member
        self._templates = [template(one.envelope) for one in member.batches]
        self.seq = self.acked = self.readings = 0
        self.due: deque[float] = deque()
        self.unsent: deque[float] = deque()
        super().__init__(certificate=member.certificate, ca=ca, address=address)

    def offer(self, due: float) -> None:
        """Send the next batch as soon as the windows allow."""
        self.unsent.append(due)
        self.windows_grew()

    def windows_grew(self) -> None:
        while self.unsent:
            data = self._templates[self.seq % len(self._templates)]
            if not self.fits(len(data) + SEQ_BYTES):
                return
            self.seq += 1
            self.due.append(self.unsent.popleft())
            self.put(data + padded_seq(self.seq))

    def take(self, cum: int, now: float, latencies: list[float]) -> int:
        """Count what an ack covers; returns its batches."""
        batches = cum - self.acked
        latencies.extend(now - self.due.popleft() for _ in range(batches))
        for seq in range(self.acked, cum):
            self.readings += self.member.batches[seq % len(self.member.batches)].count
        self.acked = cum
        return batches


class Fleet:
    def __init__(self, members: list[Member], address: tuple[str, int], ca: str) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Gateway] = {}
        self.latencies: list[float] = []
        self.batches = 0
        self._welcomed = 0
        for number, member in enumerate(members):
            self._join(Gateway(member, address, ca))
            while number - self._welcomed > MOST_OPENING:  # above that the server sends some away
                self.wait(0.05)
        self.gateways = list(self._by_fd.values())
        random.Random(3).shuffle(self.gateways)

    def _join(self, gateway: Gateway) -> None:
        epoch = gateway.member.epoch
        hello = wire.Hello(protocol=1, epoch=epoch, opens=1, boot=17, boot_id=bytes(16), run_id=os.urandom(16))
        gateway.say(wire.Uplink(hello=hello))
        gateway.say(wire.Uplink(declare=pb.Declare.FromString(gateway.member.declare)))
        gateway.flush()
        self._by_fd[gateway.sock.fileno()] = gateway
        self._epoll.register(gateway.sock.fileno(), select.EPOLLIN)

    def wait(self, timeout_s: float) -> list[Gateway]:
        """Handle what came; the gateways that got acks."""
        heard = []
        for fd, _ in self._epoll.poll(max(0.0, timeout_s)):
            gateway = self._by_fd[fd]
            for downlink in gateway.receive():
                kind = downlink.WhichOneof("msg")
                if kind == "ack":
                    self.batches += gateway.take(downlink.ack.lanes[0].acked, time.monotonic(), self.latencies)
                    heard.append(gateway)
                elif kind == "welcome":
                    self._welcomed += 1
                else:
                    raise StreamError(f"{gateway.member.gateway}: {downlink}")
            gateway.flush()
        return heard

    def settle(self) -> None:
        """Until everything offered is acknowledged."""
        deadline = time.monotonic() + DRAIN_S
        while any(one.due or one.unsent for one in self.gateways):
            if time.monotonic() > deadline:
                raise StreamError("not everything was acknowledged in time")
            self.wait(0.05)
            for one in self.gateways:
                if one.blocked:
                    one.flush()

    def first(self) -> None:
        """One batch of each, a few at a time."""
        for start in range(0, len(self.gateways), 50):
            for gateway in self.gateways[start : start + 50]:
                gateway.offer(time.monotonic())
                gateway.flush()
            self.settle()

    def open_loop(self, rate: float, seconds: float) -> None:
        started = time.monotonic()
        for number in range(int(rate * seconds)):
            due = started + number / rate
            while (left := due - time.monotonic()) > 0:
                self.wait(left)
            gateway = self.gateways[number % len(self.gateways)]
            gateway.offer(due)
            gateway.flush()
            if number % 16 == 0:
                self.wait(0)

    def closed_loop(self, seconds: float, *, most: int = 1 << 62) -> None:
        """Until the time is over, or every gateway has sent so many in all."""
        end = time.monotonic() + seconds
        ready = list(self.gateways)
        while (now := time.monotonic()) < end and any(one.seq < most for one in self.gateways):
            for gateway in ready:
                if not gateway.due and not gateway.unsent and gateway.seq < most:
                    gateway.offer(now)
                    gateway.flush()
            ready = self.wait(0.05)

    def phase(self, asked: str) -> dict[str, float]:
        """Raises StreamError where the server did not take it all."""
        kind, _, amount = asked.partition(":")
        self.latencies.clear()
        batches, readings = self.batches, sum(one.readings for one in self.gateways)
        cpu, started, began = time.process_time(), time.monotonic(), time.time()
        if kind == "each":
            self.closed_loop(LONGEST_FILL_S, most=int(amount))
        elif float(kind):
            self.open_loop(float(kind), float(amount))
        else:
            self.closed_loop(float(amount))
        self.settle()
        took = time.monotonic() - started
        ordered = sorted(self.latencies)
        return {
            "began": began,
            "took_s": took,
            "batches": self.batches - batches,
            "readings": sum(one.readings for one in self.gateways) - readings,
            "p50_ms": ordered[len(ordered) // 2] * 1000,
            "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
            "cpu": (time.process_time() - cpu) / took,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--fleet", required=True, type=Path, help="as benchmarks.fleet made it")
    parser.add_argument("--phase", action="append", default=[], metavar="RATE:SECONDS|each:N")
    asked = parser.parse_args()
    host, _, port = asked.address.rpartition(":")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    members = msgspec.msgpack.decode(asked.fleet.read_bytes(), type=list[Member])
    started = time.monotonic()
    fleet = Fleet(members, (host, int(port)), asked.ca)
    connected_s = time.monotonic() - started
    fleet.first()
    say({"ready": len(members), "connected_s": connected_s})
    for phase in asked.phase:
        sys.stdin.readline()
        say(fleet.phase(phase))
    sys.stdin.readline()
    say({one.member.gateway: one.readings for one in fleet.gateways})


def say(line: dict[str, float] | dict[str, int]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
