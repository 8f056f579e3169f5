"""Which sensors a topic belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from firmware_configs.messages import Message, covers, filled, matches, parts, topic_filter
from protos.config import MqttSensor as SensorOptions

REMEMBERED = 4096
"""Topics whose sensors are remembered: others are looked up each time."""
AVAILABILITY = -1
"""In place of a group: whether the device is there."""


class Wanted(NamedTuple):
    """One topic of one sensor; `template` may have placeholders."""

    sensor: str
    group: int
    template: str

    def parts(self, topic: str) -> Mapping[str, str]:
        return parts(self.template, topic)


class Routes:
    """Filters → their sensors."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._exact: dict[str, list[Wanted]] = {}
        self._wild: list[tuple[str, Wanted]] = []
        self._known: dict[str, Sequence[Wanted]] = {}
        for one in wanted:
            wish = topic_filter(one.template)
            if "+" in wish or "#" in wish:
                self._wild.append((wish, one))
            else:
                self._exact.setdefault(wish, []).append(one)
        wishes = [*self._exact, *dict.fromkeys(wish for wish, _ in self._wild)]
        self.filters = [one for one in wishes if not any(other != one and covers(other, one) for other in wishes)]
        """To subscribe to: none within another, or some brokers would send two of each message."""

    def of(self, topic: str) -> Sequence[Wanted]:
        """Everything that wants a message of this topic, each group of a sensor once."""
        if not self._wild:
            return self._exact.get(topic, ())
        found = self._known.get(topic)
        if found is None:
            found = [*self._exact.get(topic, ()), *(one for wish, one in self._wild if matches(wish, topic))]
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[topic] = found
        return found


def templates(options: SensorOptions, messages: Sequence[Message]) -> list[str]:
    """The topic of each message of a sensor, placeholders other than {device} left in it."""
    if options.topic and len(messages) == 1:
        return [filled(options.topic, options.device)]
    return [filled(message.topic, options.device) for message in messages]
