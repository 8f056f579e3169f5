"""gateway.sparse_requests: how many requests 200 tags cost that are strewn over a device's registers.

The map is made by a seeded generator, as devices have theirs: islands of values of one and two registers, with holes of
up to six between them that the device answers, and far from each other. Nothing runs; the plan is the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure
from firmware_configs.budget import Request, SerialLine, plan, poll_ms
from firmware_configs.schema import Limits, Register

TAGS, ISLANDS, WIDEST_HOLE = 200, 12, 6
LIMITS = Limits(max_registers=125, max_gap=WIDEST_HOLE)
SEED = 200


def figures() -> Iterator[Figure]:
    tags = sparse_map()
    requests = plan(tags, LIMITS)
    single = one_per_tag(tags)
    serial = SerialLine(baud=9600)
    polls = f"{poll_ms(requests):.0f} ms instead of {poll_ms(single):.0f} by TCP"
    polls += f", {poll_ms(requests, serial) / 1000:.1f} s instead of {poll_ms(single, serial) / 1000:.1f} at 9600 baud"
    remark = f"{len(single) / len(requests):.1f} × fewer than one per tag; {polls}"
    yield Figure("gateway.sparse_requests", len(requests), f"of {TAGS} tags", remark)


def sparse_map() -> list[Register]:
    """200 registers in 12 islands."""
    chance = random.Random(SEED)
    tags: list[Register] = []
    for island in range(ISLANDS):
        address = 5000 * island + chance.randrange(1000)
        for _ in range(TAGS // ISLANDS + (island < TAGS % ISLANDS)):
            tag = _tag(len(tags), address, wide=chance.random() < 0.6)
            tags.append(tag)
            address += tag.width + (chance.randint(1, WIDEST_HOLE) if chance.random() < 0.5 else 0)
    return tags


def _tag(number: int, address: int, *, wide: bool) -> Register:
    return Register(
        quantity=f"t{number:03d}",
        function="holding",
        address=address,
        type="f32" if wide else "u16",
        source="made-up",
    )


def one_per_tag(tags: Sequence[Register]) -> list[Request]:
    return [Request(tag.function, tag.address, tag.width) for tag in tags]
