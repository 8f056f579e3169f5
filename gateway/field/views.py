"""The pages: a picture and words in, HTML out. Pure; every text is escaped by `markup`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from firmware_configs.units import unit as unit_of
from gateway.field.markup import Markup, el, join
from gateway.field.words import Words
from gateway.health.picture import WITHOUT, LinkPicture, Picture, SensorPicture, Trouble, Value, troubles

PAGES = {"now": "/", "link": "/link", "box": "/box"}
SHOWN_MOST = 200
"""Values of one sensor on the page; the JSON has all of them."""
RED_MOST, UNFOLDED_MOST = 20, 4
View = Callable[[Picture, Words], Markup]


def login(words: Words, *, wrong: str = "") -> Markup:
    """`wrong`: what to say of the last try."""
    form = el(
        "form",
        el("label", words("pin"), for_="pin"),
        el(
            "input",
            id="pin",
            name="pin",
            type="password",
            inputmode="numeric",
            autocomplete="current-password",
            required=True,
            autofocus=True,
            maxlength="64",
        ),
        el("p", wrong, role="alert", class_="wrong") if wrong else None,
        el("button", words("sign_in"), type="submit"),
        method="post",
        action="/login",
        class_="login",
    )
    inside = el("main", el("h1", words("title")), form, el("p", words("pin_hint"), class_="empty"), class_="door")
    return _document(words, words("sign_in"), inside, script=False)


def refused(words: Words, text: str) -> Markup:
    """A page that says one sentence."""
    back = el("p", el("a", words("now"), href="/", class_="button"))
    return _document(words, words("title"), el("main", el("h1", text), back), script=False)


def page(name: str, picture: Picture, words: Words, *, csrf: str) -> Markup:
    """The whole page of PAGES[name]."""
    links = (
        el("a", words(one), href=path, aria_current="page" if one == name else None) for one, path in PAGES.items()
    )
    leave = el(
        "form",
        el("input", type="hidden", name="csrf", value=csrf),
        el("button", words("sign_out"), type="submit"),
        method="post",
        action="/logout",
    )
    title = picture.identity.name or picture.identity.gateway_id or words("title")
    header = el(
        "header",
        el("p", title, class_="name"),
        leave,
        el("nav", *links, aria_label=words("pages")),
    )
    offline = el("p", words("offline"), id="offline", role="status", hidden=True)
    return _document(words, f"{words(name)} · {title}", join(header, offline, part(name, picture, words)), script=True)


def part(name: str, picture: Picture, words: Words) -> Markup:
    """What changes: the page's <main>."""
    views: dict[str, View] = {"now": _now, "link": _link, "box": _box}
    return el("main", el("h1", words(name)), _verdict(picture, words), views[name](picture, words), id="live")


def _document(words: Words, title: str, body: Markup, *, script: bool) -> Markup:
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("link", rel="stylesheet", href="/static/style.css"),
        el("script", src="/static/page.js", defer=True) if script else None,
    )
    return join(Markup("<!doctype html>"), el("html", head, el("body", body), lang=words.language))


# --- now ---------------------------------------------------------------------------------------------


def _verdict(picture: Picture, words: Words) -> Markup:
    if not picture.red:
        return el("p", words("all_well"), class_="verdict good")
    lines = (el("li", _trouble(one, picture, words)) for one in islice(troubles(picture), RED_MOST))
    summary = el("summary", words("to_look_at", count=len(picture.red)))
    few = len(picture.red) <= UNFOLDED_MOST
    return el("details", summary, el("ul", *lines), class_="verdict red", id="verdict", open=few)


def _trouble(one: Trouble, picture: Picture, words: Words) -> str:
    facts = {name: fact if isinstance(fact, str) else words.number(fact) for name, fact in one.facts.items()}
    if one.kind == "sensor":
        facts["why"] = next(_why(sensor, words) for sensor in picture.sensors if sensor.id == facts["name"])
    return words(f"red_{one.kind}", **facts)


def _why(sensor: SensorPicture, words: Words) -> str:
    if sensor.cause == "silent":
        return words("why_silent", span=words.span(sensor.age_s or 0))
    if sensor.cause == "no_value":
        without = (_spaced(value.quantity) for value in sensor.values if value.quality in WITHOUT)
        return words("why_no_value", quantities=", ".join(without))
    return words("why_never") if sensor.cause == "never" else sensor.problem or ""


def _now(picture: Picture, words: Words) -> Markup:
    if not picture.sensors:
        return el("p", words("no_sensors"), " ", words("no_sensors_hint"), class_="empty")
    ordered = sorted(picture.sensors, key=lambda sensor: sensor.problem is None)
    return _cards(*(_sensor(sensor, words) for sensor in ordered))


def _sensor(sensor: SensorPicture, words: Words) -> Markup:
    state = "red" if sensor.problem is not None else "good" if sensor.heard else "waiting"
    age = None if sensor.age_s is None else " · " + words("ago", span=words.span(sensor.age_s))
    below = [f"{words('driver')} {sensor.driver}"]
    below += [f"{words('asset')} {sensor.asset}"] if sensor.asset else []
    below += [f"{_spaced(name)} {words.number(count)}" for name, count in sensor.counters.items()]
    return el(
        "section",
        el("h2", sensor.id),
        el("p", el("span", words(state), class_=f"state {state}"), age, class_="age"),
        el("p", _why(sensor, words), class_="why") if sensor.problem is not None else None,
        _values(sensor.values, words) if sensor.values else el("p", words("no_values"), class_="empty"),
        el("details", el("summary", words("details")), el("p", " · ".join(below)), id=f"more-{sensor.id}"),
        class_=f"card {state}",
    )


def _values(values: list[Value], words: Words) -> Markup:
    return el("dl", *(_value(one, words) for one in values[:SHOWN_MOST]), class_="values")


def _value(one: Value, words: Words) -> Markup:
    text = isinstance(one.value, str)
    unit = None if text else el("span", unit_of(one.unit), class_="unit")
    doubt = None if one.quality == "good" else el("span", words(f"quality_{one.quality}"), class_="quality")
    said = el("span", _shown(one, words), *((" ", unit) if unit else ()), class_="text" if text else "number")
    return el("div", el("dt", _spaced(one.quantity)), el("dd", said, doubt))


def _spaced(name: str) -> str:
    """A name of the documents as people write it."""
    return name.replace("_", " ")


def _shown(one: Value, words: Words) -> str:
    if one.value is None:
        return "–"
    if isinstance(one.value, bool):
        return words("yes" if one.value else "no")
    if isinstance(one.value, str):
        return one.value[:200]
    return words.number(one.value, code=one.unit)


# --- link and box ------------------------------------------------------------------------------------


def _way(link: LinkPicture, words: Words) -> Iterator[tuple[str, str]]:
    """By which of several ways, and what its policy has to do with it; nothing where none is named."""
    if link.via:
        yield words("via"), link.via
    if link.day_limit_bytes:
        yield words("today"), words("used_of", used=words.size(link.day_bytes), limit=words.size(link.day_limit_bytes))
    if link.held_back:
        yield words("held_back"), link.held_back


def _link(picture: Picture, words: Words) -> Markup:
    link, clock = picture.link, picture.clock
    unknown = words("unknown")
    return _cards(
        _facts(
            words("connection"),
            (words("connected"), words("yes" if link.connected else "no")),
            (words("connected_for"), "–" if link.connected_s is None else words.span(link.connected_s)),
            (words("server"), link.server or unknown),
            *_way(link, words),
            (words("connections"), str(link.connections)),
            (words("last_error"), link.last_error or words("none")),
            (words("acknowledged"), str(link.acked_batches)),
            (words("sent"), words.size(link.sent_bytes)),
        ),
        _facts(
            words("backlog"),
            (words("batches"), str(link.waiting_batches)),
            (words("readings"), str(link.waiting_readings)),
            (words("bytes"), words.size(link.waiting_bytes)),
            (
                words("oldest"),
                "–" if link.oldest_waiting_s is None else words("ago", span=words.span(link.oldest_waiting_s)),
            ),
        ),
        _facts(
            words("clock"),
            (words("clock_source"), unknown if clock.source is None else words(f"clock_source_{clock.source}")),
            (words("clock_error"), unknown if clock.error_ms is None else f"± {clock.error_ms} ms"),
            (
                words("clock_anchor"),
                words("never") if clock.anchor_age_s is None else words("ago", span=words.span(clock.anchor_age_s)),
            ),
        ),
    )


def _box(picture: Picture, words: Words) -> Markup:
    return _cards(
        _identity(picture, words),
        _buffer(picture, words),
        _configuration(picture, words),
        _process(picture, words),
        _parts(picture, words),
        _radios(picture, words),
    )


def _identity(picture: Picture, words: Words) -> Markup:
    identity, days = picture.identity, picture.identity.certificate_days_left
    return _facts(
        words("identity"),
        (words("gateway_id"), identity.gateway_id or words("unknown")),
        (words("name"), identity.name or "–"),
        (
            words("certificate"),
            words("unknown") if days is None else words("days_left", days=words.number(round(days))),
        ),
    )


def _buffer(picture: Picture, words: Words) -> Markup:
    buffer = picture.buffer
    used = words("used_of", used=words.size(buffer.bytes), limit=words.size(buffer.limit_bytes))
    return _facts(
        words("buffer"),
        (words("used"), used),
        (words("unsealed"), str(buffer.unsealed_rows)),
        (words("dropped"), str(buffer.dropped_readings)),
        (words("gaps_open"), str(buffer.gaps_open)),
        (words("disk"), buffer.refused or words("disk_well")),
    )


def _configuration(picture: Picture, words: Words) -> Markup:
    configuration = picture.configuration
    return _facts(
        words("configuration"),
        (words("management"), words(f"management_{configuration.management}")),
        (words("running"), configuration.running_hash[:12] or words("none")),
        (words("generation"), str(configuration.generation)),
        (words("phase"), words(f"phase_{configuration.phase}")),
        (words("rejection"), configuration.last_rejection or words("none")),
    )


def _process(picture: Picture, words: Words) -> Markup:
    box = picture.box
    return _facts(
        words("process"),
        (words("version"), box.version),
        (words("uptime"), words.span(box.uptime_s)),
        (words("machine_uptime"), words.span(box.machine_uptime_s)),
        (words("boot"), str(box.boot)),
        (words("cpu"), words("unknown") if box.cpu_percent is None else f"{words.number(round(box.cpu_percent, 1))} %"),
        (words("memory"), words.size(box.rss_bytes)),
        (words("disk_free"), words.size(box.disk_free_bytes)),
    )


def _parts(picture: Picture, words: Words) -> Markup | None:
    parts = [
        (one.name, words("restarts", problem=one.problem, count=one.restarts) if one.restarts else one.problem)
        for one in picture.parts
    ]
    return _facts(words("parts"), *parts) if parts else None


def _radios(picture: Picture, words: Words) -> Markup | None:
    return _facts(words("radios"), *((one.name, one.state) for one in picture.radios)) if picture.radios else None


def _cards(*cards: Markup | None) -> Markup:
    return el("div", *cards, class_="cards")


def _facts(title: str, *facts: tuple[str, str]) -> Markup:
    lines: Iterable[Markup] = (el("div", el("dt", name), el("dd", said)) for name, said in facts)
    return el("section", el("h2", title), el("dl", *lines), class_="card")
