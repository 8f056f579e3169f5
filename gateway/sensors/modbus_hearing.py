"""What a link hears: the answer to the one question on its way, and everything else, named and counted.

Invariants
- Nothing is an answer but a whole frame of the asked unit, function and size, on TCP of the asked transaction.
- On a line without transaction ids a unit whose question was not answered is *in doubt*: what comes from it that does
  not fit is a late answer. The link asks such a unit something else before it asks it anything that counts.
- Bytes that come while nothing is asked are never part of an answer.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal, NamedTuple

from gateway.sensors.modbus_frames import SAME_BACK, ReadFailed, count_of, head, misfit
from gateway.sensors.modbus_framing import Broken, Cut, Frame

Dropped = Literal["late", "unsolicited", "noise", "echo"]
"""late: answers that came after their question had been given up · unsolicited: frames nobody asked for · noise: bytes
that are no frame · echo: our own questions, back from an adapter that hears itself."""
_LATE_AT_MOST = 1000
GLUED_BYTES = 4
"""As short as a frame can be; less behind an answer is noise of the line."""
_HELD_BYTES = 1 << 16
_PAUSE_S = 0.05
"""Between two pieces of bytes nobody asked for, that count as two."""


class Asked(NamedTuple):
    """One question on its way."""

    unit: int
    pdu: bytes
    adu: bytes
    what: str
    """For people: unit 1, holding 0."""
    transaction: int
    """0 where the dialect has none."""


class Hearing:
    """Told of every question and every piece of bytes; gives back the frame that is the answer."""

    def __init__(self, cut: Cut, *, serial: bool) -> None:
        self._cut = cut
        self._serial = serial
        self.dropped: Counter[Dropped] = Counter()
        self.doubted: set[int] = set()
        self.owed: dict[int, set[int]] = {}
        """Unit → how many values were asked for by what it has not answered, since it answered anything."""
        self.heard_at_s = 0.0
        """When the last byte came (monotonic)."""
        self.suspect: ReadFailed | None = None
        """What it is unless more bytes come soon."""
        self.stray_bytes = 0
        """Heard on a serial line while nothing was asked, altogether."""
        self.answer = b""
        """PDU of the last answer."""
        self._connected()

    def _connected(self) -> None:
        self._asked: Asked | None = None
        self._heard = b""
        self._echoes: bool | None = None
        self._echo_due = False
        self._instead: ReadFailed | None = None
        self._head = b""
        self._transaction = 0
        self._stray_at_s = 0.0
        self.stray = b""

    def connected(self) -> None:
        """A new connection: nothing of the last one counts."""
        self._connected()
        self.heard_at_s = time.monotonic()

    @property
    def knows_echo(self) -> bool:
        """Whether this adapter is known to hear itself, or not to."""
        return self._echoes is not None

    def asks(self, asked: Asked) -> None:
        self._asked, self._transaction = asked, asked.transaction
        if self._serial:
            self._head = bytes((asked.unit,)) + head(asked.pdu)
            self._echo_due = self._echoes is not False
        self._heard, self.stray = b"", b""
        self._instead = self.suspect = None

    def given_up(self, unit: int, asked: bytes) -> None:
        """The answer to `asked` did not come, or not whole, and may come yet."""
        self.doubted.add(unit)
        self.owed.setdefault(unit, set()).add(count_of(asked))
        self.heard_at_s = time.monotonic()  # from here on it would be late

    def trusts(self, unit: int) -> None:
        """It has answered something that nothing older can follow."""
        self.doubted.discard(unit)
        self.owed.pop(unit, None)

    def done(self) -> None:
        """The question is answered or given up."""
        self._asked, self._heard, self.suspect = None, b"", None

    def hears(self, piece: bytes) -> bytes | None:
        """The answer's frame, None while there is none. Raises ReadFailed once there can't be one any more."""
        self.heard_at_s = time.monotonic()
        asked = self._asked
        if asked is None:
            self._nobody_asked(piece)
            return None
        self._heard += piece
        self.suspect = None
        if self._echo_due and not self._echo_passed(asked):
            return None
        while self._heard:
            found = self._cut(self._heard, self._head)
            if found is None:
                return None
            self._heard = self._heard[found.end :]
            if isinstance(found, Broken):
                self._broken(found, asked)
                if not found.end:
                    return None
            elif self._answers(found, asked):
                return self._taken(found, asked)
        return None

    def silence(self, what: str, timeout_s: float) -> ReadFailed:
        """What to call it that no answer came in time, from what did come."""
        if self._instead is not None:
            return ReadFailed(self._instead.cause, f"{what}: {self._instead} within {timeout_s:g} s")
        if self._heard:
            came = f"only {len(self._heard)} bytes of a frame came"
            return ReadFailed("malformed", f"{what}: {came} within {timeout_s:g} s")
        return ReadFailed("timeout", f"{what}: no answer within {timeout_s:g} s")

    # --- one piece ----------------------------------------------------------------------------------

    def _nobody_asked(self, piece: bytes) -> None:
        if self._serial:
            self.stray_bytes += len(piece)
            if self.heard_at_s - self._stray_at_s > _PAUSE_S:
                self.dropped["late" if self.doubted else "unsolicited"] += 1
            self._stray_at_s = self.heard_at_s
            return
        self.stray = (self.stray + piece)[:_HELD_BYTES]
        while isinstance(found := self._cut(self.stray, b""), Frame) and self._is_late(found):
            self.dropped["late"] += 1
            self.stray = self.stray[found.end :]

    def _echo_passed(self, asked: Asked) -> bool:
        """False while it may still be our own question that comes back."""
        if self._heard.startswith(asked.adu):
            self._heard = self._heard[len(asked.adu) :]
            self.dropped["echo"] += 1
            if asked.pdu[0] not in SAME_BACK:
                self._echoes = True
        elif asked.adu.startswith(self._heard):
            return False
        else:
            self._echoes = None  # another adapter, or none; an answer will tell
        self._echo_due = False
        return True

    def _broken(self, found: Broken, asked: Asked) -> None:
        if found.foreign:
            raise ReadFailed("protocol", found.why)
        if len(self._heard) > _HELD_BYTES:
            raise ReadFailed("malformed", f"{asked.what}: {found.why}")
        if found.end:
            self.dropped["noise"] += 1
        self._instead = ReadFailed("malformed", found.why)
        self.suspect = ReadFailed("malformed", f"{asked.what}: {found.why}")

    def _answers(self, frame: Frame, asked: Asked) -> bool:
        """False for a frame that is passed over. Raises ReadFailed for an answer that is wrong."""
        if frame.transaction != asked.transaction:
            self._pass_over(
                "late" if self._is_late(frame) else "unsolicited", f"an answer to transaction {frame.transaction}"
            )
            return False
        if frame.unit != asked.unit:
            late = frame.unit in self.doubted
            self._pass_over("late" if late else "unsolicited", f"unit {frame.unit} answered instead")
            return False
        function, got = asked.pdu[0], frame.pdu[0]
        why = f"asked function {function}, got {got}" if got & 0x7F != function else misfit(asked.pdu, frame.pdu)
        if why is None:
            return True
        if self._serial and asked.unit in self.doubted:
            self._pass_over("late", "an answer to an earlier question")
            return False
        raise ReadFailed("malformed", f"{asked.what}: {why}")

    def _is_late(self, frame: Frame) -> bool:
        return frame.transaction != 0 and 0 <= self._transaction - frame.transaction < _LATE_AT_MOST

    def _pass_over(self, what: Dropped, why: str) -> None:
        self.dropped[what] += 1
        if what == "late":
            self._instead = self._instead or ReadFailed("timeout", f"only a late answer ({why})")
        else:
            self._instead = ReadFailed("malformed", why)

    def _taken(self, frame: Frame, asked: Asked) -> bytes:
        rest, self._heard = self._heard, b""
        if self._serial:
            if len(rest) >= GLUED_BYTES:
                self.dropped["unsolicited"] += 1
                raise ReadFailed("malformed", f"{asked.what}: {len(rest)} bytes came glued to the answer")
            if rest:
                self.dropped["noise"] += 1
            if self._echoes is None and asked.pdu[0] not in SAME_BACK:
                self._echoes = False
        else:
            self.stray = rest
        self.answer = frame.pdu
        return frame.adu
