"""What the box knows of itself at one moment: one typed picture, for the status command, the local page and systemd.

Plain numbers and texts, so that it can be told as JSON. What is not known is None, never a number that looks fine.
Texts may come from devices and networks: whoever shows them must treat them as hostile.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gateway.health.written import counted

CERTIFICATE_DAYS = 14.0
"""With less left a person should look: renewal begins months earlier."""
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

    `problem`: why it is red, None while it is not. `heard` False: it gave nothing since it was started.
    """

    id: str
    driver: str
    asset: str | None
    heard: bool
    silent: bool
    problem: str | None
    age_s: float | None
    values: list[Value]
    counters: dict[str, int]


class LinkPicture(Struct, frozen=True, kw_only=True):
    """`waiting_*` is what no acknowledgement covers yet, as measured at most half a minute ago."""

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


class ClockPicture(Struct, frozen=True, kw_only=True):
    """`source`: ntp, server, …; None before the first anchor of this boot: times can't be placed yet."""

    source: str | None
    error_ms: int | None
    anchor_age_s: float | None


class BufferPicture(Struct, frozen=True, kw_only=True):
    """`gaps_open`: sensors with loss that no gap record names yet. `standstill_s`: since when the disk owes an answer.

    `refused`: what the disk said last, empty once it takes writes again.
    """

    bytes: int
    limit_bytes: int
    unsealed_rows: int
    dropped_readings: int
    gaps_open: int
    standstill_s: float
    refused: str


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
    red: list[str] = msgspec.field(default_factory=list)


def judged(picture: Picture) -> Picture:
    """The same with `red` filled in."""
    return msgspec.structs.replace(picture, red=_red(picture))


def headline(picture: Picture) -> str:
    """One line, e.g. for systemd's STATUS=."""
    red = sum(sensor.problem is not None for sensor in picture.sensors)
    link = "link up" if picture.link.connected else "link down"
    sensors = counted(len(picture.sensors), "sensor") + (f", {red} red" if red else "")
    return f"{sensors}; {link}, {counted(picture.link.waiting_batches, 'batch')} waiting"


def _red(picture: Picture) -> list[str]:
    found = [f"sensor {sensor.id}: {sensor.problem}" for sensor in picture.sensors if sensor.problem is not None]
    found += [f"{part.name}: {part.problem}" for part in picture.parts]
    link, buffer, identity = picture.link, picture.buffer, picture.identity
    if not link.connected:
        found.append(f"link: not connected to {link.server or 'the control plane'}{_because(link.last_error)}")
    if buffer.refused:
        found.append(f"buffer: {buffer.refused}")
    if buffer.standstill_s >= STANDSTILL_S:
        found.append(f"buffer: the disk has not answered for {buffer.standstill_s:.0f} s")
    if picture.configuration.phase == "failed":
        found.append("configuration: none can be started; the box runs without sensors")
    if not identity.gateway_id:
        found.append("identity: it can't be read; enrol this box again")
    elif identity.certificate_days_left is not None and identity.certificate_days_left < CERTIFICATE_DAYS:
        found.append(f"identity: the certificate has {identity.certificate_days_left:.1f} days left")
    return found


def _because(error: str) -> str:
    return f" ({error})" if error else ""
