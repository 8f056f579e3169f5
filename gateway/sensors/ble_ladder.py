"""What to try, and when, on an adapter that says it listens and hears nothing. Pure.

Steps are tried one after the other, each given `probe_ms` to show something: a fresh discovery, switching the adapter
off and on, a fresh connection to the message bus. Then it is a person's turn: the adapter is reported, and the ladder
begins again only after a rest that doubles up to `rest_cap_ms`. So there are never more than four steps per rest.
"""

from __future__ import annotations

from enum import Enum

PROBE_MS = 15_000
REST_MS = 300_000
REST_CAP_MS = 3_600_000


class Step(Enum):
    DISCOVERY = "discovery started anew"
    POWER = "adapter switched off and on"
    BUS = "connection to the message bus made anew"
    REPORT = "reported, after everything was tried"


class Ladder:
    """Of one adapter."""

    def __init__(self, *, silent_ms: int, probe_ms: int = PROBE_MS, rest_ms: int = REST_MS) -> None:
        self._silent_ms = silent_ms
        self._probe_ms = min(probe_ms, silent_ms)
        self._rest_ms = self._first_rest_ms = rest_ms
        self._tried: list[Step] = []

    @property
    def patience_ms(self) -> int:
        """How long silence is borne now, from when scanning began or something was heard last."""
        if not self._tried:
            return self._silent_ms
        return self._rest_ms if self._tried[-1] is Step.REPORT else self._probe_ms

    @property
    def exhausted(self) -> bool:
        """Everything was tried; a person should look."""
        return bool(self._tried) and self._tried[-1] is Step.REPORT

    def heard(self) -> None:
        """Something was: it begins at the bottom again."""
        self._tried.clear()
        self._rest_ms = self._first_rest_ms

    def climb(self, *, power: bool, bus: bool) -> Step:
        """The next step; `power`, `bus`: whether that one makes sense now."""
        if self.exhausted:
            self._rest_ms = min(2 * self._rest_ms, REST_CAP_MS)
            self._tried.clear()
        possible = [Step.DISCOVERY, *([Step.POWER] if power else []), *([Step.BUS] if bus else []), Step.REPORT]
        step = next(step for step in possible if step not in self._tried)
        self._tried.append(step)
        return step
