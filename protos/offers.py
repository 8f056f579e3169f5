"""What the signature of a configuration offer covers, the same bytes on both sides."""

from __future__ import annotations

import hashlib
import struct

DOMAIN = b"comboio.config.offer.v1"


def signed_bytes(*, gateway: str, generation: int, digest: bytes, apply_when: str, probation_s: int) -> bytes:
    """The message to sign (Ed25519): a hash, of this purpose only, over every field with its length.

    It binds the document (by its SHA-256) to one gateway and one generation, so that no offer can be replayed to
    another box or, by the generation's order, later.
    """
    parts = (
        gateway.encode(),
        struct.pack(">Q", generation),
        digest,
        apply_when.encode(),
        struct.pack(">I", probation_s),
    )
    message = b"".join(struct.pack(">I", len(part)) + part for part in (DOMAIN, *parts))
    return hashlib.sha256(message).digest()
