"""`comboio-control simulate fleet`: many gateways on real mutual TLS streams, with the accidents that fleets have.

They are enrolled by join tokens over the identity listener (`--tokens`), or, beside the control plane's data folder, by
the authority there, which is quicker. Each measures a place, a probe and a meter, seals a batch every `--batch-s` with
the encoder that gateways ship, keeps it until it is acknowledged, and comes back after every disconnection. At random,
but by `--seed`: links that are cut for a while, and wrong clocks. When asked: storms, in which all come back at once,
and clones, which the control plane must find and hold until an administrator releases them.

It ends by itself, after `--seconds` and at most `--settle-s` more to have everything acknowledged, with a balance:
status 0 if every batch that was made was acknowledged, refused in words, or held back for a clone.
"""

from __future__ import annotations

import argparse
import heapq
import json
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from control_plane.errors import ComboioError
from control_plane.simulators.fleet_box import Box, Tally
from control_plane.simulators.fleet_members import Identity, enrolled, local
from control_plane.simulators.link_stream import Stream, StreamError
from protos.comboio.v1 import link_pb2 as wire

MOST_GATEWAYS = 20_000
MOST_S = 86_400.0
BACKOFF_S = 0.5
BACKOFF_MOST_S = 15.0
HEARTBEAT_S = 30.0
BLOCKED_S = 0.1
WRONG_CLOCK_MS = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens. A share is of the gateways; `outage_every_s` is a mean, 0: links hold."""

    seconds: float
    settle_s: float = 60.0
    batch_s: float = 10.0
    interval_s: float = 0.0
    """Of real time between two batches; 0: `batch_s`."""
    outage_every_s: float = 0.0
    outage_s: float = 5.0
    wrong_clocks: float = 0.05
    clones: int = 0
    storms: int = 0
    seed: int = 1


@dataclass(slots=True)
class Story:
    """What happened to the whole fleet."""

    connections: int = 0
    refused_connections: int = 0
    outages: int = 0
    storms: int = 0
    goodbyes: dict[str, int] = field(default_factory=dict)
    slowest_return_s: float = 0.0
    """From a storm until the last one was greeted again."""


class Line(Stream):
    """`greeted` once the server has said Welcome: no batch goes before."""

    greeted = False


class Fleet:
    """One thread, one epoll. `run` returns when all is over; `stop` ends the measuring at once."""

    def __init__(self, identities: Sequence[Identity], *, plan: Plan, address: tuple[str, int], ca: str) -> None:
        self._plan = plan
        self._address, self._ca = address, ca
        self._random = Random(plan.seed)  # noqa: S311 - seeded, so that it can be seen again
        self._epoll = select.epoll()
        self._streams: dict[int, tuple[Box, Line]] = {}
        self._of: dict[int, Line] = {}
        self._failures: dict[int, int] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._began = time.monotonic()
        self._measuring = True
        self._ends_at = 0.0
        self._storm_at = 0.0
        self._missing: set[int] = set()
        self.story = Story()
        self.boxes = [self._box(one) for one in identities]

    def run(self) -> Story:
        self._began = time.monotonic()
        every_s = self._plan.interval_s or self._plan.batch_s
        for box in self.boxes:
            self._at(self._random.random() * min(5.0, every_s), lambda box=box: self._connect(box))  # type: ignore[misc]
            self._at(self._random.random() * every_s, lambda box=box: self._measure(box))  # type: ignore[misc]
            self._next_outage(box)
        for number in range(self._plan.storms):
            self._at(self._plan.seconds * (number + 1) / (self._plan.storms + 1), self._storm)
        for box in self.boxes[: self._plan.clones]:
            self._at(self._plan.seconds / 2, lambda box=box: self._clone(box))  # type: ignore[misc]
        self._at(self._plan.seconds, self.stop)
        while not self._over():
            self._turn()
        for _, stream in list(self._streams.values()):
            stream.close()
        self._epoll.close()
        return self.story

    def stop(self) -> None:
        """Measure nothing more; what is held is still to be acknowledged."""
        self._measuring = False
        self._ends_at = time.monotonic() + self._plan.settle_s

    @property
    def tally(self) -> Tally:
        whole = Tally()
        for box in self.boxes:
            whole.add(box.tally)
        return whole

    @property
    def held(self) -> tuple[int, int]:
        """Batches without an answer: of boxes that are suspected to be two, and of the others."""
        suspected = sum(box.held for box in self.boxes if box.suspended)
        return suspected, sum(box.held for box in self.boxes) - suspected

    # --- time ------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def _at(self, in_s: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + in_s, self._number, act))

    def _over(self) -> bool:
        if self._measuring:
            return False
        return self.held[1] == 0 or time.monotonic() > self._ends_at

    def _turn(self) -> None:
        now = time.monotonic()
        wait_s = min(0.1, max(0.0, self._due[0][0] - now)) if self._due else 0.1
        for descriptor, _ in self._epoll.poll(wait_s):
            if descriptor in self._streams:
                self._hear(*self._streams[descriptor])
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    # --- what boxes do ---------------------------------------------------------------------------------

    def _box(self, identity: Identity) -> Box:
        random = Random(self._random.random())  # noqa: S311 - as above
        wrong = random.random() < self._plan.wrong_clocks
        return Box(
            gateway=identity.gateway,
            certificate=identity.certificate,
            random=random,
            batch_s=self._plan.batch_s,
            started_ms=random.randrange(1 << 32),
            wall_off_ms=random.randrange(-WRONG_CLOCK_MS, WRONG_CLOCK_MS) if wrong else 0,
        )

    def _measure(self, box: Box) -> None:
        if not self._measuring:
            return
        box.measure(self._now_ms(), time.time_ns() // 1_000_000)
        self._say_due(box)
        self._at(self._plan.interval_s or self._plan.batch_s, lambda: self._measure(box))

    def _next_outage(self, box: Box) -> None:
        if self._plan.outage_every_s:
            self._at(box.random.expovariate(1 / self._plan.outage_every_s), lambda: self._outage(box))

    def _outage(self, box: Box) -> None:
        if not self._measuring:
            return
        self.story.outages += 1
        self._leave(box, back_in_s=box.random.expovariate(1 / self._plan.outage_s))
        self._next_outage(box)

    def _storm(self) -> None:
        self.story.storms += 1
        self._storm_at = time.monotonic()
        self._missing = {id(box) for box in self.boxes if not box.suspended}
        for box in self.boxes:
            self._leave(box, back_in_s=0.0)

    def _clone(self, box: Box) -> None:
        other = box.twin()
        self.boxes.append(other)
        self._connect(other)
        other.measure(self._now_ms(), time.time_ns() // 1_000_000)

    # --- streams ---------------------------------------------------------------------------------------

    def _connect(self, box: Box) -> None:
        if id(box) in self._of or box.suspended:
            return
        try:
            stream = Line(certificate=box.certificate, ca=self._ca, address=self._address)
        except OSError:
            self.story.refused_connections += 1
            self._again(box)
            return
        self.story.connections += 1
        self._of[id(box)] = stream
        self._streams[stream.sock.fileno()] = (box, stream)
        self._epoll.register(stream.sock.fileno(), select.EPOLLIN)
        stream.say(wire.Uplink(hello=box.hello(self._now_ms())))
        stream.flush()

    def _again(self, box: Box) -> None:
        failures = self._failures[id(box)] = self._failures.get(id(box), 0) + 1
        wait_s = min(BACKOFF_MOST_S, BACKOFF_S * 2**failures) * box.random.uniform(0.5, 1)
        self._at(wait_s, lambda: self._connect(box))

    def _leave(self, box: Box, *, back_in_s: float | None) -> None:
        stream = self._of.pop(id(box), None)
        if stream is not None:
            del self._streams[stream.sock.fileno()]
            self._epoll.unregister(stream.sock.fileno())
            stream.close()
        if back_in_s is not None:
            self._at(back_in_s, lambda: self._connect(box))

    def _hear(self, box: Box, stream: Line) -> None:
        try:
            for said in stream.receive():
                self._answer(box, stream, said)
                if self._of.get(id(box)) is not stream:
                    return
            self._say_due(box)
        except (StreamError, OSError):
            self._leave(box, back_in_s=None)
            self._again(box)

    def _answer(self, box: Box, stream: Line, said: wire.Downlink) -> None:
        kind = said.WhichOneof("msg")
        first: list[wire.Uplink] = []
        if kind == "welcome":
            stream.greeted = True
            self._failures.pop(id(box), None)
            self._returned(box)
            first = box.greeted(said.welcome)
            self._beat(box, stream)
        elif kind == "ack":
            first = box.acknowledged(said.ack)
        elif kind == "reject":
            box.rejected(said.reject)
        elif kind == "pace" and said.pace.window:
            box.window = max(1, min(16, said.pace.window))
        elif kind == "goodbye":
            self._sent_away(box, said.goodbye)
            return
        for uplink in first:
            stream.say(uplink)

    def _sent_away(self, box: Box, goodbye: wire.Goodbye) -> None:
        name = wire.GoodbyeReason.Name(goodbye.reason).removeprefix("GOODBYE_").lower()
        self.story.goodbyes[name] = self.story.goodbyes.get(name, 0) + 1
        if goodbye.reason == wire.GOODBYE_CLONE_SUSPECTED:
            box.suspended = True
            self._returned(box)  # as far as a storm is concerned
            self._leave(box, back_in_s=None)
        elif goodbye.return_after_ms:
            self._leave(box, back_in_s=goodbye.return_after_ms / 1000)
        else:
            self._leave(box, back_in_s=None)
            self._again(box)

    def _returned(self, box: Box) -> None:
        if id(box) in self._missing:
            self._missing.discard(id(box))
            if not self._missing:
                self.story.slowest_return_s = max(self.story.slowest_return_s, time.monotonic() - self._storm_at)

    def _beat(self, box: Box, stream: Line) -> None:
        if self._of.get(id(box)) is stream:
            stream.say(box.heartbeat(self._now_ms()))
            self._flush(box)
            self._at(HEARTBEAT_S, lambda: self._beat(box, stream))

    def _say_due(self, box: Box) -> None:
        self._flush(box)
        stream = self._of.get(id(box))
        if stream is None:
            return
        if stream.blocked:
            self._at(BLOCKED_S, lambda: self._say_due(box))
            return
        if stream.greeted:
            for uplink in box.due():
                stream.say(uplink)
            self._flush(box)

    def _flush(self, box: Box) -> None:
        stream = self._of.get(id(box))
        if stream is None:
            return
        try:
            stream.flush()
        except OSError:
            self._leave(box, back_in_s=None)
            self._again(box)


def balance(fleet: Fleet) -> dict[str, object]:
    tally, story, (suspected, open_) = fleet.tally, fleet.story, fleet.held
    return {
        "gateways": len(fleet.boxes),
        "made": tally.made,
        "not_made": tally.not_made,
        "sent": tally.sent,
        "sent_again": tally.sent_again,
        "acknowledged": tally.acked,
        "refused": tally.refused,
        "held_for_clones": suspected,
        "unanswered": open_,
        "balanced": tally.made == tally.acked + tally.refused + suspected + open_ and open_ == 0,
        "connections": story.connections,
        "refused_connections": story.refused_connections,
        "outages": story.outages,
        "storms": story.storms,
        "slowest_return_s": round(story.slowest_return_s, 1),
        "goodbyes": story.goodbyes,
    }


def command(arguments: list[str]) -> int:
    """The program behind `comboio-control simulate fleet`."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.tokens is not None and not (args.identity and args.ca):
        parser.error("--tokens needs --identity and --ca")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    plan = Plan(
        seconds=min(args.seconds, MOST_S),
        settle_s=args.settle_s,
        batch_s=args.batch_s,
        interval_s=args.interval_s,
        outage_every_s=args.outage_every_s,
        outage_s=args.outage_s,
        wrong_clocks=args.wrong_clocks,
        clones=args.clones,
        storms=args.storms,
        seed=args.seed,
    )
    host, _, port = args.grpc.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="comboio-fleet-") as folder:
        try:
            if args.tokens is not None:
                tokens = args.tokens.read_text().split()[: args.gateways]
                members = enrolled(tokens, identity=args.identity, ca=args.ca, folder=Path(folder))
                ca = str(args.ca)
            else:
                members, ca = local(
                    args.gateways, data_dir=args.data_dir, database=args.database, folder=Path(folder), name="simulated"
                )
        except (ComboioError, OSError) as error:
            print(f"simulate fleet: {error}", file=sys.stderr)
            return 1
        fleet = Fleet(members, plan=plan, address=(host, int(port)), ca=ca)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: fleet.stop())
        fleet.run()
    found = balance(fleet)
    if args.json:
        print(json.dumps(found), flush=True)
    else:
        print("\n".join(f"{name.replace('_', ' '):20} {value}" for name, value in found.items()), flush=True)
    return 0 if found["balanced"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="comboio-control simulate fleet", description="A fleet of gateways.")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT", help="where ingest listens")
    parser.add_argument("--gateways", type=_gateways, default=20, help=f"at most {MOST_GATEWAYS}")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle-s", type=float, default=60.0, help="to have the rest acknowledged")
    parser.add_argument("--batch-s", type=float, default=10.0, help="seconds of readings in a batch")
    parser.add_argument("--interval-s", type=float, default=0.0, help="between two batches; 0: as --batch-s")
    parser.add_argument("--outage-every-s", type=float, default=0.0, help="mean, per gateway; 0: links hold")
    parser.add_argument("--outage-s", type=float, default=5.0, help="mean length of an outage")
    parser.add_argument("--wrong-clocks", type=float, default=0.05, help="share of gateways, up to ten minutes off")
    parser.add_argument("--clones", type=int, default=0, help="gateways of which a second box appears")
    parser.add_argument("--storms", type=int, default=0, help="times at which all come back at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="the balance as one JSON line")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data-dir", type=Path, help="of a control plane on this machine, whose authority enrols them")
    where.add_argument("--tokens", type=Path, help="a file of join tokens, one a gateway")
    parser.add_argument("--database", default="", help="with --data-dir, where it is not SQLite there")
    parser.add_argument("--identity", default="", metavar="HOST:PORT", help="with --tokens: where to enrol")
    parser.add_argument("--ca", type=Path, help="with --tokens: the file of the fleet's authority (pki/ca.pem)")
    return parser


def _gateways(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_GATEWAYS:
        raise argparse.ArgumentTypeError(f"1 to {MOST_GATEWAYS}")
    return number
