"""Who delivers: what a new configuration is measured by.

A source is a sensor by its id. One that delivered in the window before must deliver after, one already silent does not
count, a new one only where it is marked `required`. Counted is what drivers handed over, before any stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protos.config import GatewayConfig

PERIODS = 3.0
LONGEST_S = 600.0
SLACK = 1.5


@dataclass(slots=True)
class Watch:
    """Looks at what was delivered again and again; `delivered_ms` is when each sensor's number last rose."""

    delivered: Callable[[], Mapping[str, int]]
    now_ms: Callable[[], int]
    delivered_ms: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        now_ms = self.now_ms()
        for sensor, count in self.delivered().items():
            if count > self._seen.get(sensor, 0):
                self.delivered_ms[sensor] = now_ms
            self._seen[sensor] = count

    def restarted(self) -> None:
        """Parts were built anew: their counts begin at nothing, and what was delivered before proves nothing."""
        self._seen.clear()
        self.delivered_ms.clear()

    def within(self, window_s: Mapping[str, float]) -> set[str]:
        """The sensors whose last delivery is no older than their window."""
        now_ms = self.now_ms()
        return {s for s, at_ms in self.delivered_ms.items() if s in window_s and now_ms - at_ms <= window_s[s] * 1000}


def windows(config: GatewayConfig, probation_s: float) -> dict[str, float]:
    """How far back a sensor's delivery counts: the probation, or some of its periods where those are longer.

    Sensors too slow to be waited for are left out.
    """
    return {
        sensor.id: max(probation_s, PERIODS * period_s(sensor))
        for sensor in config.sensor
        if SLACK * period_s(sensor) <= LONGEST_S
    }


def period_s(sensor: object) -> float:
    """A sensor's period; 0 for those that speak when they like."""
    return float(getattr(sensor, "every_s", 0.0) or 0.0)


def length_s(config: GatewayConfig, must: set[str], asked_s: float) -> float:
    """As long as asked, longer where a sensor that must deliver is read more seldom; at most ten minutes."""
    slowest = max((period_s(sensor) for sensor in config.sensor if sensor.id in must), default=0.0)
    return min(LONGEST_S, max(asked_s, SLACK * slowest))
