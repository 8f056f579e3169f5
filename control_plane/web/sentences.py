"""Facts in words: why a gateway stands as it does, what a quality, a gap, an event means."""

from __future__ import annotations

from control_plane.fleet.presence import Standing, Status, Why
from control_plane.fleet.status import Way
from control_plane.web.words import Words
from firmware_configs import units
from protos.comboio.v1 import batch_pb2 as pb

FINE = "deg"  # a ten-thousandth of a degree is eleven metres
DAY_MS = 86_400_000
SOON_DAYS = 30


def status(words: Words, one: Status) -> str:
    _ = words.text
    return {
        Status.ONLINE: _("online"),
        Status.LATE: _("late"),
        Status.OFFLINE: _("offline"),
        Status.NEVER: _("never seen"),
        Status.RETIRED: _("retired"),
    }[one]


def why(words: Words, one: Standing) -> str:
    """A sentence or two for the row and the header."""
    text, said = _why(words, one), one.presence
    if said is not None and said.paced and said.left_ms is None:
        return text + " " + words.text("It sends more than its quota and is slowed down; nothing of it is lost.")
    return text


def _why(words: Words, one: Standing) -> str:
    _ = words.text
    said = one.presence
    if one.why is Why.RETIRED:
        return _("Retired on %(time)s; its certificate is revoked.", time=words.clock(one.retired_ms))
    if one.why is Why.CLONE:
        return _(
            "Paused since %(time)s: two boxes use its identity, and nothing is taken of either. Their readings stay on "
            "them. Find the second box, give it an identity of its own, then release this gateway.",
            time=words.clock(one.paused_ms),
        )
    if said is None:
        return _("Registered on %(time)s, has not connected yet.", time=words.clock(one.created_ms))
    if one.why is Why.LEFT:
        return _("No connection since %(time)s (%(why)s); %(last)s.", **_left(words, one))
    if one.why is Why.QUIET:
        return _("No word since %(time)s; %(last)s.", time=words.clock(said.heard_ms), last=last_batch(words, one))
    if one.why is Why.BEHIND:
        kept = ", ".join(part for part in (backlog(words, one), backlog_age(words, one)) if part)
        return _("Connected, sending what it kept: %(backlog)s.", backlog=kept)
    if one.why is Why.NO_DATA:
        return _(
            "Connected since %(time)s, but %(last)s.", time=words.clock(said.connected_ms), last=last_batch(words, one)
        )
    return _("Connected since %(time)s; %(last)s.", time=words.clock(said.connected_ms), last=last_batch(words, one))


def _left(words: Words, one: Standing) -> dict[str, str]:
    assert one.presence is not None
    return {
        "time": words.clock(one.presence.left_ms),
        "why": _ended(words, one.presence.left_why),
        "last": last_batch(words, one),
    }


def _ended(words: Words, text: str) -> str:
    """Why a stream ended: ingest's own words where it has usual ones."""
    _ = words.text
    return {
        "": _("reason unknown"),
        "the connection broke": _("the connection broke"),
        "the gateway ended the connection": _("the gateway ended the connection"),
        "a newer connection of this gateway took over": _("a newer connection took over"),
        "this server is restarting": _("this server was restarting"),
        "this server was not running": _("this server was not running"),
        "the journal can't be written": _("this server could not write"),
    }.get(text, text)


def last_batch(words: Words, one: Standing) -> str:
    if one.data_ms is None:
        return words.text("no data yet")
    return words.text("last data %(time)s", time=words.clock(one.data_ms))


def backlog(words: Words, one: Standing) -> str:
    """«34 batches»; what was never said is a dash."""
    said = one.presence
    if said is None or said.backlog_batches is None:
        return "–"
    return words.plural("%(n)s batch", "%(n)s batches", said.backlog_batches)


def backlog_age(words: Words, one: Standing) -> str:
    said = one.presence
    if said is None or not said.backlog_batches or said.backlog_oldest_ms is None:
        return ""
    return words.text("oldest from %(time)s", time=words.clock(said.backlog_oldest_ms))


def clock_error(words: Words, one: Standing) -> str:
    said = one.presence
    if said is None or said.clock_err_ms is None:
        return "–"
    return "± " + words.length_ms(said.clock_err_ms)


def clock_source(words: Words, one: Standing) -> str:
    _ = words.text
    source = None if one.presence is None else one.presence.clock_source
    named: dict[int | None, str] = {
        pb.CLOCK_NONE: _("not set yet"),
        pb.CLOCK_RTC: _("the box's battery clock"),
        pb.CLOCK_SERVER: _("this server"),
        pb.CLOCK_GPS: _("GPS"),
        pb.CLOCK_NTP: _("NTP"),
    }
    return named.get(source, "–")


def certificate_days(one: Standing, now_ms: int) -> int | None:
    return None if one.certificate_expires_ms is None else (one.certificate_expires_ms - now_ms) // DAY_MS


def kept(words: Words, keep_ms: int | None) -> str:
    """How long."""
    if keep_ms is None:
        return words.text("for ever")
    return words.plural("%(n)s day", "%(n)s days", keep_ms // DAY_MS)


def configuration(words: Words, one: Standing) -> str:
    """One or two words for a row."""
    return "–" if one.configuration is None else configuration_state(words, one.configuration)


def way(words: Words, one: Way) -> str:
    """What a fleet is filtered by."""
    _ = words.text
    return {
        Way.IN_FORCE: _("in force"),
        Way.PENDING: _("waiting"),
        Way.UNDER_WAY: _("under way"),
        Way.REFUSED: _("refused or undone"),
        Way.DRIFTED: _("drifted"),
        Way.LOCAL: _("managed locally"),
    }[one]


def configuration_state(words: Words, state: str) -> str:
    """A state of the way from what is wanted to what runs."""
    _ = words.text
    return {
        "UNMANAGED": _("managed locally"),
        "PENDING": _("waiting"),
        "OFFERED": _("offered"),
        "DEFERRED": _("waiting"),
        "SUPERSEDED": _("superseded"),
        "STAGED": _("received"),
        "READY": _("received"),
        "APPLYING": _("applying"),
        "PROBATION": _("on probation"),
        "APPLIED": _("in force"),
        "IN_SYNC": _("in force"),
        "REJECTED": _("rejected"),
        "ROLLING_BACK": _("rolling back"),
        "ROLLED_BACK": _("rolled back"),
        "FAILED": _("failed"),
        "DRIFTED": _("drifted"),
    }.get(state, state)


def quality(words: Words, code: int) -> str:
    """Why a value can't be trusted; empty for a good one."""
    _ = words.text
    named: dict[int, str] = {
        pb.QUALITY_GOOD: "",
        pb.QUALITY_UNCERTAIN: _("uncertain"),
        pb.QUALITY_BAD_COMM: _("the device did not answer"),
        pb.QUALITY_BAD_SENSOR: _("the device reports a fault of its sensor"),
        pb.QUALITY_OUT_OF_RANGE: _("outside what the sensor can measure"),
        pb.QUALITY_STALE: _("an old value, repeated"),
        pb.QUALITY_SUBSTITUTED: _("a substitute, not measured"),
    }
    return named[code] if code in named else _("quality %(code)s", code=code)


def gap_reasons(words: Words) -> dict[str, str]:
    _ = words.text
    return {
        "restart": _("the gateway stopped without warning"),
        "unreadable": _("the sensor could not be read"),
        "refused": _("the payload could not be decoded"),
        "queue_full": _("a queue was full"),
        "thinned": _("thinned out, the storage was filling up"),
        "dropped": _("dropped, the storage was full"),
        "rejected": _("refused by the server"),
        "silent": _("the sensor was silent"),
        "vanished": _("missing and never explained by the gateway"),
        "undecodable": _("not decodable by this version; kept raw"),
        "source_lost": _("the source did not come back in time"),
    }


def gap_reason(words: Words, reason: str) -> str:
    return gap_reasons(words).get(reason, reason)


def event_types(words: Words) -> dict[str, str]:
    _ = words.text
    return {
        "comboio.cold_chain.excursion.opened.v1": _("Cold-chain excursion opened"),
        "comboio.cold_chain.excursion.closed.v1": _("Cold-chain excursion closed"),
        "comboio.data.gap.opened.v1": _("Data gap opened"),
        "comboio.data.gap.closed.v1": _("Data gap closed"),
        "comboio.alarm.raised.v1": _("Alarm raised"),
        "comboio.alarm.cleared.v1": _("Alarm cleared"),
        "comboio.sensor.silent.v1": _("Sensor fell silent"),
        "comboio.sensor.recovered.v1": _("Sensor spoke again"),
    }


def event_type(words: Words, name: str) -> str:
    return event_types(words).get(name, name)


def finality(words: Words, name: str) -> str:
    return {"final": words.text("final"), "provisional": words.text("provisional")}.get(name, name)


def change(words: Words, name: str) -> str:
    _ = words.text
    return {
        "create": _("First version"),
        "amend": _("Amended"),
        "supersede": _("Corrected"),
        "retract": _("Retracted"),
    }.get(name, name)


def delivery_state(words: Words, name: str) -> str:
    _ = words.text
    return {
        "pending": _("waiting to be sent"),
        "inflight": _("being sent"),
        "unknown": _("sent, answer unknown"),
        "delivered": _("delivered"),
        "retry": _("failed, will be tried again"),
        "parked": _("parked, needs a person"),
        "dead": _("given up"),
        "superseded": _("overtaken by a newer version"),
    }.get(name, name)


def outcome(words: Words, name: str) -> str:
    """What an attempt that did not succeed came to."""
    _ = words.text
    return {
        "THROTTLED": _("asked to slow down"),
        "TRANSIENT": _("failed for the moment"),
        "AMBIGUOUS": _("may or may not have arrived"),
        "AUTH": _("not let in"),
        "PERMANENT": _("refused"),
        "GONE": _("the receiver is gone"),
    }.get(name, name)


def field(words: Words, name: str) -> str:
    """A field of an event's data."""
    _ = words.text
    return {
        "rule": _("Rule"),
        "side": _("Side"),
        "low": _("Lower limit"),
        "high": _("Upper limit"),
        "unit": _("Unit"),
        "opened_at": _("Opened"),
        "closed_at": _("Closed"),
        "first_value": _("First value outside"),
        "duration_s": _("Duration"),
        "peak": _("Farthest value"),
        "degree_minutes": _("Degree minutes"),
        "observations": _("Readings used"),
        "coverage_pct": _("Coverage in percent"),
        "max_gap_s": _("Longest gap"),
        "gateway": _("Gateway"),
        "sensor": _("Sensor"),
        "reason": _("Reason"),
        "readings_lost": _("Readings lost"),
        "count_exact": _("Count is exact"),
        "alarm": _("Alarm"),
        "quantity": _("Quantity"),
        "limit": _("Limit"),
        "comparison": _("Comparison"),
        "value": _("Value"),
        "severity": _("Severity"),
        "cleared_value": _("Value when cleared"),
        "finality": _("Finality"),
    }.get(name) or quantity(name)


def unit(code: str) -> str:
    """A UCUM code as people write it."""
    return units.unit(code)


def quantity(name: str) -> str:
    """`supply_temperature` → «Supply temperature»: names come from profiles and are not translated."""
    spaced = name.replace("_", " ").strip()
    return spaced[:1].upper() + spaced[1:]


def value(words: Words, number: float | None, kind: int, unit_code: str = "") -> str:
    if number is None:
        return "–"
    if kind == pb.VT_BOOL:
        return words.text("yes") if number else words.text("no")
    return words.number(float(number), places=6 if unit_code == FINE else 3)
