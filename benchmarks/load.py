"""A fleet of gateways in one process on one epoll loop, by the simulator's light streams.

    python -m benchmarks.load --address HOST:PORT --ca FILE --fleet FILE
        [--phase RATE:SECONDS | noisy:RATE:SECONDS | each:N | back …]

Every gateway has its own certificate, connection and stream, says Hello and Declare, and sends its first batch. Then
`{"ready": …}` is printed, and each line on stdin starts the next phase: RATE batches a second in all, spread evenly
over the gateways in a shuffled order, whatever the server does (RATE 0: each gateway keeps one batch in flight, until
SECONDS are over, or `each:N` until it has sent N). `noisy` is RATE batches of all but one gateway, which has as many
under way as the server lets it, all the time; its own latencies don't count. `back`: all connections are cut at once,
and the phase is over when every gateway has been welcomed again; who is told to come later does. A phase ends when all
of it is acknowledged; it is reported as one line of JSON. Latency runs from the moment a batch was due to the ack that
covers it.
"""

from __future__ import annotations

import argparse
import heapq
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
BACK_WITHIN_S = 300.0
UNDER_WAY = 64
"""Batches of the noisy one: more than it may have unacknowledged."""
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
        self._address, self._ca, self._run = address, ca, os.urandom(16)
        self._templates = [template(one.envelope) for one in member.batches]
        self.seq = self.acked = self.readings = 0
        self.due: deque[float] = deque()
        self.unsent: deque[float] = deque()
        self.connect()

    def connect(self) -> None:
        """And say Hello."""
        super().__init__(certificate=self.member.certificate, ca=self._ca, address=self._address)
        hello = wire.Hello(protocol=1, epoch=self.member.epoch, opens=1, boot=17, boot_id=bytes(16), run_id=self._run)
        self.say(wire.Uplink(hello=hello))

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
        self._unheeded: list[float] = []
        self._noisy: Gateway | None = None
        self._later: list[tuple[float, int]] = []
        """When who comes again, by its place among `gateways`."""
        self.batches = 0
        self._welcomed = 0
        self.gateways: list[Gateway] = []
        for number, member in enumerate(members):
            gateway = Gateway(member, address, ca)
            gateway.say(wire.Uplink(declare=pb.Declare.FromString(member.declare)))
            self._watch(gateway)
            while number - self._welcomed > MOST_OPENING:  # above that the server sends some away
                self.wait(0.05)
        self.gateways = list(self._by_fd.values())
        random.Random(3).shuffle(self.gateways)
        self._place = {id(one): number for number, one in enumerate(self.gateways)}

    def _watch(self, gateway: Gateway) -> None:
        gateway.flush()
        self._by_fd[gateway.sock.fileno()] = gateway
        self._epoll.register(gateway.sock.fileno(), select.EPOLLIN)

    def wait(self, timeout_s: float) -> list[Gateway]:
        """Handle what came; the gateways that got acks."""
        heard = []
        for fd, _ in self._epoll.poll(max(0.0, timeout_s)):
            gateway = self._by_fd[fd]
            away = False
            for downlink in gateway.receive():
                kind = downlink.WhichOneof("msg")
                if kind == "ack":
                    latencies = self._unheeded if gateway is self._noisy else self.latencies
                    self.batches += gateway.take(downlink.ack.lanes[0].acked, time.monotonic(), latencies)
                    heard.append(gateway)
                elif kind == "welcome":
                    self._welcomed += 1
                elif kind == "goodbye" and self.gateways:
                    self._sent_away(gateway, downlink.goodbye)
                    away = True
                    break
                else:
                    raise StreamError(f"{gateway.member.gateway}: {downlink}")
            if not away:
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

    def open_loop(self, rate: float, seconds: float, *, noisy: bool = False) -> None:
        started = time.monotonic()
        steady = self.gateways[1:] if noisy else self.gateways
        self._noisy = self.gateways[0] if noisy else None
        for number in range(int(rate * seconds)):
            due = started + number / rate
            while (left := due - time.monotonic()) > 0:
                self._make_noise()
                self.wait(left)
            gateway = steady[number % len(steady)]
            gateway.offer(due)
            gateway.flush()
            if number % 16 == 0:
                self._make_noise()
                self.wait(0)

    def _make_noise(self) -> None:
        if self._noisy is not None:
            while len(self._noisy.due) + len(self._noisy.unsent) < UNDER_WAY:
                self._noisy.offer(time.monotonic())
            self._noisy.flush()

    def back(self) -> dict[str, float]:
        """All are cut off at once; until all are welcomed again, and one more batch of each was acknowledged."""
        started, used, shaken_s, shaken = time.monotonic(), time.process_time(), 0.0, 0
        for fd, gateway in self._by_fd.items():
            self._epoll.unregister(fd)
            gateway.close()
        self._by_fd.clear()
        self._welcomed, self._later = 0, [(started, number) for number in range(len(self.gateways))]
        while self._welcomed < len(self.gateways):
            if time.monotonic() - started > BACK_WITHIN_S:
                raise StreamError(f"only {self._welcomed} gateways are back")
            due = bool(self._later) and self._later[0][0] <= time.monotonic()
            if due:
                gateway, began = self.gateways[heapq.heappop(self._later)[1]], time.process_time()
                gateway.connect()
                shaken, shaken_s = shaken + 1, shaken_s + time.process_time() - began
                self._watch(gateway)
            self.wait(0 if due else 0.02)
        back_s, spent = time.monotonic() - started, time.process_time() - used
        for gateway in self.gateways:
            gateway.offer(time.monotonic())
            gateway.flush()
        self.settle()
        return {"back_s": back_s, "shaken": shaken, "shake_ms": 1000 * shaken_s / shaken, "cpu": spent / back_s}

    def _sent_away(self, gateway: Gateway, goodbye: wire.Goodbye) -> None:
        """Its turn is later."""
        if goodbye.reason != wire.GOODBYE_DRAINING:
            raise StreamError(f"{gateway.member.gateway}: {goodbye}")
        fd = gateway.sock.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        gateway.close()
        again = time.monotonic() + goodbye.return_after_ms / 1000
        heapq.heappush(self._later, (again, self._place[id(gateway)]))

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
        if asked == "back":
            return self.back()
        noisy = asked.startswith("noisy:")
        kind, _, amount = asked.removeprefix("noisy:").partition(":")
        self.latencies.clear()
        self._unheeded.clear()
        batches, readings = self.batches, sum(one.readings for one in self.gateways)
        cpu, started, began = time.process_time(), time.monotonic(), time.time()
        if kind == "each":
            self.closed_loop(LONGEST_FILL_S, most=int(amount))
        elif float(kind):
            self.open_loop(float(kind), float(amount), noisy=noisy)
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
            "noisy": len(self._unheeded),
            "cpu": (time.process_time() - cpu) / took,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--fleet", required=True, type=Path, help="as benchmarks.fleet made it")
    parser.add_argument("--phase", action="append", default=[], metavar="PHASE", help="see above")
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
