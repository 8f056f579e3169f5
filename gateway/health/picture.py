"""What the box knows of itself at one moment: one typed picture, for the status command, the local page and systemd.

Plain numbers and texts, so that it can be told as JSON. What is not known is None, never a number that looks fine.
Texts may come from devices and networks: whoever shows them must treat them as hostile.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from gateway.health.written import counted

CERTIFICATE_DAYS = 14.0
"""With less left a person should look: renewal begins months earlier."""
WITHOUT = ("bad_comm", "bad_sensor")
"""Qualities that stand in the place of a value."""
STANDSTILL_S = 15.0
"""A disk that does not answer for so long is not merely busy."""


class Value(Struct, frozen=True, kw_only=True):
    """One quantity of the newest row, in its unit (UCUM); `quality` as on the wire, lower case."""

    quantity: str
    unit: str
    value: float | bool | str | None
    quality: str


class SensorPicture(Struct, frozen=True, kw_only=True):
    """`values` are of the newest row of each group; `age_s` is that of the oldest of these rows.

    `problem`: why it is red, None while it is not. `cause`: never, silent, no_value; empty for what a driver says in
    its own words. `heard` False: it gave nothing since it was started.
    """

    id: str
    driver: str
    asset: str | None
    heard: bool
    silent: bool
    problem: str | None
    cause: str
    age_s: float | None
    values: list[Value]
    counters: dict[str, int]


class LinkPicture(Struct, frozen=True, kw_only=True):
    """`waiting_*` is what no acknowledgement covers yet, as measured at most half a minute ago.

    `via`: the way that is taken, of several. `held_back`: why telemetry waits or goes in larger batches, by that way's
    policy; empty: it goes as it comes. `day_*`: its bytes of today and their limit, 0 where there is none.
    """

    connected: bool
    connected_s: float | None
    server: str
    connections: int
    last_error: str
    waiting_batches: int
    waiting_readings: int
    waiting_bytes: int
    oldest_waiting_s: float | None
    acked_batches: int
    sent_bytes: int
    via: str = ""
    held_back: str = ""
    paused: bool = False
    """The control plane suspects a second box with this one's identity and takes nothing of either."""
    day_bytes: int = 0
    day_limit_bytes: int = 0


class ClockPicture(Struct, frozen=True, kw_only=True):
    """`source`: ntp, server, …; None before the first anchor of this boot: times can't be placed yet."""

    source: str | None
    error_ms: int | None
    anchor_age_s: float | None


class BufferPicture(Struct, frozen=True, kw_only=True):
    """`gaps_open`: sensors with loss that no gap record names yet. `standstill_s`: since when the disk owes an answer.

    `refused`: what the disk said last, empty once it takes writes again. `urgent_bytes`: events, alarms, gap records.
    """

    bytes: int
    limit_bytes: int
    unsealed_rows: int
    dropped_readings: int
    gaps_open: int
    standstill_s: float
    refused: str
    thinned_readings: int = 0
    urgent_bytes: int = 0
    urgent_limit_bytes: int = 0


class ConfigurationPicture(Struct, frozen=True, kw_only=True):
    """`running_hash`: of the document that runs; `last_rejection`: why the last offer was not kept."""

    management: str
    running_hash: str
    generation: int
    phase: str
    last_rejection: str


class IdentityPicture(Struct, frozen=True, kw_only=True):
    """`gateway_id` is empty while the identity can't be read."""

    gateway_id: str
    name: str
    certificate_days_left: float | None


class BoxPicture(Struct, frozen=True, kw_only=True):
    """This process and the machine below it. `cpu_percent`: of one core, since the last look but at least 1 s."""

    version: str
    boot: int
    opens: int
    uptime_s: float
    machine_uptime_s: float
    cpu_percent: float | None
    rss_bytes: int
    disk_free_bytes: int


class PartPicture(Struct, frozen=True, kw_only=True):
    """A supervised part that failed, or that says what it lacks."""

    name: str
    restarts: int
    problem: str


class RadioPicture(Struct, frozen=True, kw_only=True):
    """An adapter: how it listens, and what it counted: adverts, and each reason and step of starting anew."""

    name: str
    state: str
    counters: dict[str, int]


class Picture(Struct, frozen=True, kw_only=True):
    """`red`: one sentence for each thing a person should look at; empty: healthy."""

    taken_ms: int
    """Wall time by the box's own clock, right or wrong."""
    sensors: list[SensorPicture]
    link: LinkPicture
    clock: ClockPicture
    buffer: BufferPicture
    configuration: ConfigurationPicture
    identity: IdentityPicture
    box: BoxPicture
    parts: list[PartPicture]
    radios: list[RadioPicture] = msgspec.field(default_factory=list)
    red: list[str] = msgspec.field(default_factory=list)


class Trouble(Struct, frozen=True, kw_only=True):
    """One thing a person should look at: a key of SENTENCES, and what to fill in there."""

    kind: str
    facts: dict[str, str | float] = msgspec.field(default_factory=dict)


SENTENCES = {
    "sensor": "sensor {name}: {why}",
    "part": "{name}: {why}",
    "link": "link: not connected to {server}",
    "link_why": "link: not connected to {server} ({why})",
    "link_paused": "link: the control plane takes nothing of this box, because a second one uses its identity; "
    "readings are kept here until an administrator releases it",
    "link_unknown": "link: not connected to the control plane",
    "disk_refuses": "buffer: {why}",
    "disk_still": "buffer: the disk has not answered for {seconds} s",
    "configuration": "configuration: none can be started; the box runs without sensors",
    "identity": "identity: it can't be read; enrol this box again",
    "certificate": "identity: the certificate has {days} days left",
}


def judged(picture: Picture) -> Picture:
    """The same with `red` filled in."""
    red = [SENTENCES[one.kind].format(**one.facts) for one in troubles(picture)]
    return msgspec.structs.replace(picture, red=red)


def headline(picture: Picture) -> str:
    """One line, e.g. for systemd's STATUS=."""
    red = sum(sensor.problem is not None for sensor in picture.sensors)
    link = "link up" if picture.link.connected else "link down"
    sensors = counted(len(picture.sensors), "sensor") + (f", {red} red" if red else "")
    return f"{sensors}; {link}, {counted(picture.link.waiting_batches, 'batch')} waiting"


def troubles(picture: Picture) -> Iterator[Trouble]:
    """As `red`, for those who say it in another language."""
    for sensor in picture.sensors:
        if sensor.problem is not None:
            yield Trouble(kind="sensor", facts={"name": sensor.id, "why": sensor.problem})
    for part in picture.parts:
        yield Trouble(kind="part", facts={"name": part.name, "why": part.problem})
    if not picture.link.connected:
        yield _unconnected(picture.link)
    if picture.buffer.refused:
        yield Trouble(kind="disk_refuses", facts={"why": picture.buffer.refused})
    if picture.buffer.standstill_s >= STANDSTILL_S:
        yield Trouble(kind="disk_still", facts={"seconds": round(picture.buffer.standstill_s)})
    if picture.configuration.phase == "failed":
        yield Trouble(kind="configuration")
    days = picture.identity.certificate_days_left
    if not picture.identity.gateway_id:
        yield Trouble(kind="identity")
    elif days is not None and days < CERTIFICATE_DAYS:
        yield Trouble(kind="certificate", facts={"days": round(days, 1)})


def _unconnected(link: LinkPicture) -> Trouble:
    if link.paused:
        return Trouble(kind="link_paused")
    if not link.server:
        return Trouble(kind="link_unknown")
    return Trouble(
        kind="link_why" if link.last_error else "link", facts={"server": link.server, "why": link.last_error}
    )
