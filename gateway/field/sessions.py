"""Who is signed in: random names in memory, gone with the process. Pure but for randomness."""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from gateway.clock import Clock

AT_ONCE = 16
LIFE_MS = 12 * 3_600_000
IDLE_MS = 2 * 3_600_000


@dataclass(slots=True)
class Session:
    """`csrf` stands in every form of its pages. `pin`: the fingerprint of the PIN it was opened with."""

    csrf: str
    pin: tuple[int, int]
    began_ms: int
    seen_ms: int

    def sent(self, token: str) -> bool:
        """Whether a form came from one of our pages."""
        return hmac.compare_digest(token.encode(), self.csrf.encode())


class Sessions:
    """At most `AT_ONCE`; the one unused for longest makes room."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._open: OrderedDict[str, Session] = OrderedDict()

    def begin(self, *, pin: tuple[int, int]) -> str:
        """A new session's name, for the cookie."""
        name, now_ms = secrets.token_urlsafe(32), self._clock.mono_ms()
        self._open[name] = Session(csrf=secrets.token_urlsafe(32), pin=pin, began_ms=now_ms, seen_ms=now_ms)
        while len(self._open) > AT_ONCE:
            self._open.popitem(last=False)
        return name

    def of(self, name: str, *, pin: tuple[int, int]) -> Session | None:
        """The session of that name; None if there is none, it is over, or the PIN has been changed since."""
        session, now_ms = self._open.get(name), self._clock.mono_ms()
        if session is None:
            return None
        if now_ms - session.began_ms > LIFE_MS or now_ms - session.seen_ms > IDLE_MS or session.pin != pin:
            del self._open[name]
            return None
        session.seen_ms = now_ms
        self._open.move_to_end(name)
        return session

    def end(self, name: str) -> None:
        self._open.pop(name, None)
