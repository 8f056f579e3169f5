"""Is this offer ours, whole, and newer? Nothing is kept or changed here."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.desired.state import State
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest
from protos.offers import signed_bytes

APPLY_WHEN = ("", "now")
Refusal = tuple[int, str]


def refusal(offer: wire.ConfigOffer, *, gateway: str, config_key: bytes, state: State) -> Refusal | None:
    """(reason, sentence) why it is not taken; None when its document may be staged."""
    if not _signed(offer, gateway=gateway, config_key=config_key):
        return wire.CONFIG_REASON_SIGNATURE, "the offer is not signed by the key this box was given at enrolment"
    if digest(offer.body) != offer.hash:
        return wire.CONFIG_REASON_HASH, "the document is not the one whose hash was signed"
    if offer.apply_when not in APPLY_WHEN:
        return wire.CONFIG_REASON_UNSUPPORTED, f"this version does not know apply_when = {offer.apply_when!r}"
    stale = _stale(offer, state)
    if stale is not None:
        return wire.CONFIG_REASON_OLD_GENERATION, stale
    return None


def _stale(offer: wire.ConfigOffer, state: State) -> str | None:
    if offer.generation < state.generation:
        return f"generation {offer.generation} is older than {state.generation}, which was here before"
    known = {
        one.hash
        for one in (state.committed, state.trial, state.waiting, state.last)
        if one is not None and one.generation == offer.generation
    }
    if known and offer.hash.hex() not in known:
        return f"generation {offer.generation} was another document"
    return None


def _signed(offer: wire.ConfigOffer, *, gateway: str, config_key: bytes) -> bool:
    message = signed_bytes(
        gateway=gateway,
        generation=offer.generation,
        digest=offer.hash,
        apply_when=offer.apply_when,
        probation_s=offer.probation_s,
    )
    try:
        Ed25519PublicKey.from_public_bytes(config_key).verify(offer.signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
