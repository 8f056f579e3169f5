from __future__ import annotations

import random

import pytest
import zstandard

from protos.columns import MAX_DICTIONARY_BYTES, BodyError, Dictionary, Packer, pack, unpack
from protos.comboio.v1 import batch_pb2 as pb

NOISE = random.Random(11)
WORDS = [NOISE.randbytes(6) for _ in range(40)]


def body(seed: int, words: int = 60) -> bytes:
    """Of words that recur in every body, in an order of its own."""
    chosen = random.Random(seed)
    return b"".join(chosen.choice(WORDS) + chosen.randbytes(1) for _ in range(words))


def trained(number: int, seed: int = 0) -> Dictionary:
    samples: list[bytes | bytearray | memoryview] = [body(seed + at) for at in range(200)]
    return Dictionary(zstandard.train_dictionary(2048, samples, dict_id=number).as_bytes())


def test_what_is_packed_with_a_dictionary_needs_exactly_that_one() -> None:
    dictionary, other = trained(1), trained(2, seed=5000)
    data = body(9001)
    codec, packed = Packer(dictionary).pack(data)
    assert codec == pb.CODEC_ZSTD_DICT
    assert len(packed) < len(pack(data)[1])
    assert unpack(codec, packed, body_len=len(data), dictionary=dictionary) == data
    for wrong in (other, None):
        with pytest.raises(BodyError):
            unpack(codec, packed, body_len=len(data), dictionary=wrong)


def test_a_dictionary_put_under_the_name_of_another_is_not_loaded() -> None:
    """Its frames could decode to something."""
    dictionary, other = trained(1), trained(1, seed=5000)
    with pytest.raises(BodyError, match=f"{dictionary.id:08x} is damaged"):
        Dictionary(other.data, dictionary.sha256)
    flipped = bytearray(dictionary.data)
    flipped[-1] ^= 1
    with pytest.raises(BodyError, match="is damaged"):
        Dictionary(bytes(flipped), dictionary.sha256)
    assert Dictionary(dictionary.data, dictionary.sha256).id == dictionary.id


def test_where_a_dictionary_does_not_help_it_is_not_named() -> None:
    packer = Packer(trained(1))
    assert packer.pack(NOISE.randbytes(200))[0] == pb.CODEC_NONE
    zeros = bytes(60_000)
    assert packer.pack(zeros) == pack(zeros)
    large = b"".join(body(at) for at in range(200))
    assert packer.pack(large) == pack(large)


def test_a_dictionary_has_a_size_and_a_form() -> None:
    for data in (b"", bytes(MAX_DICTIONARY_BYTES + 1)):
        with pytest.raises(BodyError, match="a dictionary of"):
            Dictionary(data)
    with pytest.raises(BodyError, match="can't be used"):
        Packer(Dictionary(b"\x37\xa4\x30\xec" + b"not what such a header promises"))
    broken = Dictionary(b"\x37\xa4\x30\xec" + b"not what such a header promises")
    codec, packed = Packer(trained(1)).pack(body(1))
    with pytest.raises(BodyError):
        unpack(codec, packed, body_len=len(body(1)), dictionary=broken)
