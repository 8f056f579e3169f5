"""Bodies as carried: zstd, with the gateway's own dictionary where it has one, and only where that is smaller.

A frame made by another dictionary can decode to something, silently. So a dictionary is loaded only under its whole
SHA-256, and a frame carries the number inside its dictionary (one byte, from 1 to 255), which zstd compares.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import zstandard

from protos.comboio.v1 import batch_pb2 as pb
from protos.schema import MAX_BODY_BYTES, BodyError

# Measured on a mixed gateway: level 15 makes bodies of 10 s and 60 s 3 % smaller than level 3 for 0.05 and 0.6 ms;
# above that size its cost grows tenfold, and level 9 gives the same 3 % for 40 ns a reading.
SMALL_BYTES = 8 << 10
SMALL_LEVEL = 15
LARGE_LEVEL = 9
DICTIONARY_BODY_BYTES = 64 << 10
"""Larger bodies hold enough of themselves; a dictionary is not tried on them."""
DICTIONARY_NAME_BYTES = 5
"""What naming a dictionary adds to an envelope."""
MAX_DICTIONARY_BYTES = 64 << 10
_MAGIC = b"\x28\xb5\x2f\xfd"

Packed: TypeAlias = tuple[pb.Codec.ValueType, bytes]


class Dictionary:
    """A dictionary under its name. Immutable, so threads may share it; compiled for unpacking when first used.

    Raises BodyError where `data` is not what `sha256` names, or can be no dictionary.
    """

    __slots__ = ("compiled", "id", "sha256")

    def __init__(self, data: bytes, sha256: bytes | None = None) -> None:
        if not 0 < len(data) <= MAX_DICTIONARY_BYTES:
            raise BodyError(f"a dictionary of {len(data)} bytes; it has 1 to {MAX_DICTIONARY_BYTES}")
        self.sha256 = hashlib.sha256(data).digest()
        if sha256 is not None and sha256 != self.sha256:
            raise BodyError(f"dictionary {dictionary_id(sha256):08x} is damaged: it is not what its name says")
        self.id = dictionary_id(self.sha256)
        self.compiled = zstandard.ZstdCompressionDict(data)

    @property
    def data(self) -> bytes:
        return self.compiled.as_bytes()


class Packer:
    """Packs with one dictionary, compiled once. One thread at a time. Raises BodyError for one that can't be used."""

    def __init__(self, dictionary: Dictionary, *, level: int = SMALL_LEVEL) -> None:
        self.dictionary = dictionary
        try:
            compiled = zstandard.ZstdCompressionDict(dictionary.data)
            compiled.precompute_compress(level=level)
            self._context = _compressor(level, compiled)
            self._context.compress(b"")
        except zstandard.ZstdError as error:
            raise BodyError(f"dictionary {dictionary.id:08x} can't be used: {error}") from None

    def pack(self, body: bytes) -> Packed:
        """The codec that was worth it, its dictionary's name included, and the bytes to carry."""
        codec, plain = pack(body)
        if len(body) > DICTIONARY_BODY_BYTES:
            return codec, plain
        packed = self._context.compress(body)
        return (pb.CODEC_ZSTD_DICT, packed) if len(packed) + DICTIONARY_NAME_BYTES < len(plain) else (codec, plain)


def dictionary_id(sha256: bytes) -> int:
    """What envelopes call a dictionary: the first four bytes of its SHA-256, little-endian."""
    return int.from_bytes(sha256[:4], "little")


def pack(body: bytes, *, level: int | None = None) -> Packed:
    """Without a dictionary. Without a `level`, one that suits the size."""
    if level is None:
        level = SMALL_LEVEL if len(body) <= SMALL_BYTES else LARGE_LEVEL
    packed = _compressor(level, None).compress(body)
    return (pb.CODEC_ZSTD, packed) if len(packed) < len(body) else (pb.CODEC_NONE, body)


def _compressor(level: int, dictionary: zstandard.ZstdCompressionDict | None) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(
        level=level,
        dict_data=dictionary,
        write_checksum=False,  # the envelope has its own
        write_content_size=False,  # body_len
        write_dict_id=dictionary is not None,
    )


def unpack(codec: int, data: bytes, *, body_len: int, dictionary: Dictionary | None = None) -> bytes:
    """Exactly `body_len` bytes, or BodyError. Never allocates more than that, whatever the frame promises.

    `dictionary` is the one that the envelope names, wanted with CODEC_ZSTD_DICT alone.
    """
    if not 0 <= body_len <= MAX_BODY_BYTES:
        raise BodyError(f"a body of {body_len} bytes is over the limit of {MAX_BODY_BYTES}")
    body = data if codec == pb.CODEC_NONE else _decompress(codec, data, body_len, dictionary)
    if len(body) != body_len:
        raise BodyError(f"the body has {len(body)} bytes instead of {body_len}")
    return body


def _decompress(codec: int, data: bytes, body_len: int, dictionary: Dictionary | None) -> bytes:
    if codec not in (pb.CODEC_ZSTD, pb.CODEC_ZSTD_DICT):
        raise BodyError(f"unknown codec {codec}")
    if codec == pb.CODEC_ZSTD_DICT and dictionary is None:
        raise BodyError("the batch needs a dictionary")
    with_dictionary = dictionary.compiled if codec == pb.CODEC_ZSTD_DICT and dictionary else None
    try:
        _check_frame(data, body_len)
        context = zstandard.ZstdDecompressor(dict_data=with_dictionary, max_window_size=MAX_BODY_BYTES)
        return context.decompress(data, max_output_size=body_len, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BodyError(f"zstd: {error}") from None


def _check_frame(data: bytes, body_len: int) -> None:
    # A content size in the frame would be allocated as it stands, and 0 as the largest output means any.
    if not data.startswith(_MAGIC) or body_len == 0:
        raise BodyError("not a zstd frame")
    parameters = zstandard.get_frame_parameters(data)
    if parameters.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, body_len):
        raise BodyError(f"the frame promises {parameters.content_size} bytes instead of {body_len}")
    if parameters.window_size > MAX_BODY_BYTES:
        raise BodyError(f"the frame asks for a window of {parameters.window_size} bytes")
