"""The batch body codec: everything a program needs of it, in one place.

Layout and meaning of the bytes are fixed by the comments in `comboio/v1/batch.proto`; what they leave open is:

* a scaled value is float64(v) / 10^exp, or float64(v) * scale + offset; for VT_FLOAT32 rounded to float32 at the end;
* what a column holds is declared: an int in a scaled column is the device's own, a float there is an exception;
* a reading with BAD_COMM or BAD_SENSOR has no value; like an exception it is stood in for by the integer before it
  (the declared ref when first; the double before it, or 0.0, in a raw column), and it is not listed in xpos;
* a table of strings is never empty where a string column is present, so that every stand-in is valid;
* times are in [0, 2^53) ms, integers and device_ms wrap modulo 2^64.

Lossless to the bit: NaN payloads, signed zeros, infinities, denormals, the extremes of 64-bit integers, any order of
times. A body decodes alone, given its schema and count. Nothing but BodyError is raised for bad bytes, and sizes are
checked before anything is allocated on their word.
"""

from __future__ import annotations

from protos.body_decoder import decode
from protos.body_encoder import encode
from protos.compression import MAX_DICTIONARY_BYTES, Dictionary, Packer, dictionary_id, pack, unpack
from protos.scaling import from_wire, narrow32, propose, to_wire, widen32
from protos.schema import (
    MAX_BODY_BYTES,
    MAX_COUNT,
    MAX_EVENTS,
    MAX_STRINGS,
    MAX_TIME_MS,
    Block,
    BodyError,
    ColumnSpec,
    Decoded,
    DecodedBlock,
    GroupColumns,
    Schema,
    Value,
    Wire,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_COUNT",
    "MAX_DICTIONARY_BYTES",
    "MAX_EVENTS",
    "MAX_STRINGS",
    "MAX_TIME_MS",
    "Block",
    "BodyError",
    "ColumnSpec",
    "Decoded",
    "DecodedBlock",
    "Dictionary",
    "GroupColumns",
    "Packer",
    "Schema",
    "Value",
    "Wire",
    "decode",
    "dictionary_id",
    "encode",
    "from_wire",
    "narrow32",
    "pack",
    "propose",
    "to_wire",
    "unpack",
    "widen32",
]
