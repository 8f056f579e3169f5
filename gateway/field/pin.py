"""The technician's PIN: kept as a scrypt hash in a file of mode 0600, tried ever more slowly.

Guesses are counted for all askers together: on a Wi-Fi one attacker has as many addresses as he likes. The price is
that he can keep a technician out of the page; `comboio-gateway status` needs no PIN.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.identity.files import write_durably

NAME = "field.pin"
SHORTEST, LONGEST = 6, 64
N, R, P = 1 << 14, 8, 1
MEMORY = 64 << 20
FREE_TRIES = 3
LONGEST_WAIT_S = 300.0


class Hashed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file, as JSON; salt and hash are hexadecimal."""

    scheme: str
    n: int
    r: int
    p: int
    salt: str
    hash: str

    def fits(self, pin: str) -> bool:
        return hmac.compare_digest(_scrypt(pin, bytes.fromhex(self.salt), self.n, self.r, self.p).hex(), self.hash)


def write(path: Path, pin: str) -> None:
    """Replace the PIN. Raises Misconfigured for one that is too short or too long, OSError."""
    if not SHORTEST <= len(pin) <= LONGEST:
        raise Misconfigured(f"a PIN has {SHORTEST} to {LONGEST} characters; this one has {len(pin)}")
    if len(set(pin)) < 3 or pin in "01234567890123456789" or pin in "98765432109876543210":
        raise Misconfigured("this PIN would be guessed first; take one that is no row or repetition")
    salt = secrets.token_bytes(16)
    hashed = Hashed(scheme="scrypt", n=N, r=R, p=P, salt=salt.hex(), hash=_scrypt(pin, salt, N, R, P).hex())
    write_durably(path, msgspec.json.encode(hashed), mode=0o600)


def read(path: Path) -> Hashed:
    """Raises Misconfigured when there is none, or others may read it."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Misconfigured(f"{path} can be read by others; do: chmod 600 {path}")
        return msgspec.json.decode(path.read_bytes(), type=Hashed)
    except FileNotFoundError:
        raise Misconfigured(f"{path}: there is no PIN yet; run: comboio-gateway field set-pin") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise Misconfigured(f"{path}: damaged ({error}); run: comboio-gateway field set-pin") from error


def fingerprint(path: Path) -> tuple[int, int]:
    """Changes with the PIN; (0, 0) while there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def _scrypt(pin: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=n, r=r, p=p, maxmem=MEMORY, dklen=32)


class Door:
    """Tries PINs, one at a time. The file is read at each try: a new PIN holds at once."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._failures = 0
        self._closed_until_ms = 0
        self._trying = asyncio.Lock()

    def wait_s(self) -> float:
        """Until the next PIN is looked at; 0: now."""
        return max(0.0, (self._closed_until_ms - self._clock.mono_ms()) / 1000)

    async def opens(self, pin: str) -> bool:
        """Whether it is the PIN. False without a look while `wait_s`. Raises Misconfigured."""
        if self._trying.locked() or self.wait_s() > 0:
            return False
        async with self._trying:
            right = await asyncio.to_thread(lambda: read(self._path).fits(pin[: LONGEST + 1]))
        if right:
            self._failures = 0
            return True
        self._failures += 1
        if self._failures >= FREE_TRIES:
            delay_s = min(LONGEST_WAIT_S, math.pow(2.0, min(self._failures - FREE_TRIES, 16)))
            self._closed_until_ms = self._clock.mono_ms() + round(delay_s * 1000)
        return False
