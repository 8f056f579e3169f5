"""Trains a dictionary and says whether it is worth its bytes. Pure: samples in, verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from protos.columns import Dictionary, Packer, pack
from protos.comboio.v1 import batch_pb2 as pb
from protos.compression import DICTIONARY_NAME_BYTES, SMALL_LEVEL

DICTIONARY_BYTES = 8 << 10
SEGMENT_BYTES, DMER_BYTES = 200, 8
"""Of the cover algorithm. Searching for better ones takes five times as long and gains 1 % at most."""
CARRIAGE_BYTES = 100
"""Around a dictionary on its way down, and its name in each Hello of a day."""
DAY_MS = 86_400_000
BETTER = 0.97
"""A dictionary is followed by another only for this share of its batches' bytes."""


class Verdict(NamedTuple):
    """`saving` is the share of the held-out bodies' bytes that it saves, compared with no dictionary."""

    saving: float
    worth: bool


def train(bodies: Sequence[bytes], number: int) -> Dictionary | None:
    """A dictionary of these bodies; None if they hold too little. Frames made with it carry `number`, 1 to 255."""
    try:
        made = zstandard.train_dictionary(
            DICTIONARY_BYTES, list(bodies), dict_id=number, level=SMALL_LEVEL, k=SEGMENT_BYTES, d=DMER_BYTES
        )
    except zstandard.ZstdError:
        return None
    return Dictionary(made.as_bytes())


def judge(
    candidate: Dictionary, held_out: Sequence[bytes], *, current: Dictionary | None, interval_ms: float
) -> Verdict:
    """Whether within a day it saves more than it costs, on bodies it was not trained on.

    `interval_ms`: between two of this gateway's batches.
    """
    now, then = carried(held_out, current), carried(held_out, candidate)
    saved_a_day = (now - then) / len(held_out) * DAY_MS / interval_ms
    worth = saved_a_day > len(candidate.data) + CARRIAGE_BYTES
    if current is not None:
        worth = worth and then < BETTER * now
    return Verdict(saving(held_out, then), worth)


def saving(held_out: Sequence[bytes], then: int) -> float:
    """The share of the bodies' bytes, packed without a dictionary, that `then` saves."""
    return 1 - then / max(1, carried(held_out, None))


def carried(bodies: Sequence[bytes], dictionary: Dictionary | None) -> int:
    """Bytes of all of them as the gateway would carry them."""
    if dictionary is None:
        return sum(len(pack(body)[1]) for body in bodies)
    packer, total = Packer(dictionary), 0
    for body in bodies:
        codec, packed = packer.pack(body)
        total += len(packed) + (DICTIONARY_NAME_BYTES if codec == pb.CODEC_ZSTD_DICT else 0)
    return total
