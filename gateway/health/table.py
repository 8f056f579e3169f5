"""The picture for a terminal: what is wrong first, then one line per sensor. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from firmware_configs.units import unit
from gateway.health.picture import Picture, SensorPicture, Value
from gateway.health.written import counted, number

VALUES_SHOWN = 4


def status(picture: Picture) -> str:
    """The whole box."""
    return "\n".join([*_verdict(picture), "", *_facts(picture), "", *_sensors(picture)])


def sensors(picture: Picture) -> str:
    """Every value of every sensor."""
    return "\n".join(_values(picture)) if picture.sensors else "no sensors are configured"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def plain(text: str) -> str:
    """Text from devices and networks without what a terminal would obey."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _verdict(picture: Picture) -> Iterator[str]:
    name = picture.identity.name or "this gateway"
    yield plain(f"{name} ({picture.identity.gateway_id or 'no readable identity'})")
    if not picture.red:
        yield "all is well"
    for line in picture.red:
        yield plain(f"!! {line}")


def _facts(picture: Picture) -> Iterator[str]:
    link, clock, buffer, box = picture.link, picture.clock, picture.buffer, picture.box
    up = f"connected for {span(link.connected_s)}" if link.connected_s is not None else "not connected"
    up += f" by {link.via}" if link.via else ""
    yield plain(
        f"link           {up}, {link.server or 'server unknown'}; {counted(link.acked_batches, 'batch')} acknowledged"
    )
    if link.day_limit_bytes:
        yield f"today          {size(link.day_bytes)} of {size(link.day_limit_bytes)} by {plain(link.via)}"
    if link.held_back:
        yield plain(f"telemetry      {link.held_back}")
    oldest = f", oldest {span(link.oldest_waiting_s)} ago" if link.oldest_waiting_s is not None else ""
    waiting = ", ".join(
        [counted(link.waiting_batches, "batch"), counted(link.waiting_readings, "reading"), size(link.waiting_bytes)]
    )
    yield f"waiting        {waiting}{oldest}"
    dropped = f"{counted(buffer.dropped_readings, 'reading')} dropped"
    if buffer.thinned_readings:
        dropped = f"{counted(buffer.thinned_readings, 'reading')} thinned out, {dropped}"
    yield f"buffer         {size(buffer.bytes)} of {size(buffer.limit_bytes)}; {dropped}"
    if 2 * buffer.urgent_bytes > buffer.urgent_limit_bytes:
        used, full = buffer.urgent_bytes, buffer.urgent_bytes >= buffer.urgent_limit_bytes
        what = "field events are refused" if full else "repeated alarms are joined"
        yield f"events         {size(used)} of {size(buffer.urgent_limit_bytes)}; {what}"
    if clock.source is None:
        yield "clock          not set yet: neither NTP nor the control plane has told the time"
    else:
        yield f"clock          {clock.source}, ± {clock.error_ms} ms, told {span(clock.anchor_age_s or 0)} ago"
    told = picture.configuration
    generation = f", generation {told.generation}" if told.management == "managed" else ""
    phase = "" if told.phase == "in_sync" else f", {told.phase.replace('_', ' ')}"
    yield f"configuration  {told.management}, {told.running_hash[:12] or 'none'}{generation}{phase}"
    if told.last_rejection:
        yield plain(f"               last one refused: {told.last_rejection}")
    for radio in picture.radios:
        yield plain(f"{radio.name:<14} {radio.state}; {radio.counters.get('adverts', 0)} adverts")
    days = picture.identity.certificate_days_left
    yield f"certificate    {'unknown' if days is None else f'{days:.0f} days left'}"
    cpu = "" if box.cpu_percent is None else f", {box.cpu_percent:.1f} % of a core"
    yield f"program        {box.version}, up {span(box.uptime_s)}, {size(box.rss_bytes)}{cpu}"
    yield f"disk           {size(box.disk_free_bytes)} free"


def _sensors(picture: Picture) -> Iterator[str]:
    if not picture.sensors:
        yield "no sensors are configured"
        return
    width = max(len(sensor.id) for sensor in picture.sensors)
    for sensor in sorted(picture.sensors, key=lambda one: one.problem is None):
        yield plain(f"{mark(sensor)} {sensor.id:<{width}}  {_age(sensor):>9}  {_first(sensor)}")


def _first(sensor: SensorPicture) -> str:
    if sensor.problem is not None:
        return sensor.problem
    shown = ", ".join(f"{one.quantity} {shown_value(one)}" for one in sensor.values[:VALUES_SHOWN])
    more = len(sensor.values) - VALUES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "nothing heard yet"


def _values(picture: Picture) -> Iterator[str]:
    for sensor in picture.sensors:
        yield plain(f"{mark(sensor)} {sensor.id} ({sensor.driver}), {_age(sensor)}")
        if sensor.problem is not None:
            yield plain(f"     {sensor.problem}")
        for one in sensor.values:
            quality = "" if one.quality == "good" else f"  {one.quality}"
            yield plain(f"     {one.quantity:<32} {shown_value(one):>16}{quality}")


def mark(sensor: SensorPicture) -> str:
    """Two characters that a tired eye finds."""
    return "!!" if sensor.problem is not None else "ok" if sensor.heard else ".."


def shown_value(one: Value) -> str:
    if one.value is None:
        return "–"
    if isinstance(one.value, bool):
        return "yes" if one.value else "no"
    return (
        one.value[:80]
        if isinstance(one.value, str)
        else f"{number(one.value, code=one.unit)} {unit(one.unit)}".rstrip()
    )


def _age(sensor: SensorPicture) -> str:
    return "never" if sensor.age_s is None else f"{span(sensor.age_s)} ago"


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for name in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {name}"
        count /= 1000
    return f"{count:.3g} GB"
