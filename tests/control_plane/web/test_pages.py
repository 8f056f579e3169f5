"""What the pages say, without a browser: facts, filters, mistakes, text of strangers, live streams."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from control_plane.api.broadcast import Broadcaster, Lifetime, event
from control_plane.api.routes import Parts
from control_plane.errors import Retryable
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.index import FleetIndex
from control_plane.fleet.presence import Fleet, Status, Why
from control_plane.fleet.rights import EVERYTHING
from control_plane.fleet.search import FleetSearch
from control_plane.store.engine import Stores
from control_plane.store.tables import clone, clone_release, config_desired, config_status
from control_plane.web import render
from control_plane.web.fleet import FleetPages, FleetQuery
from control_plane.web.gateway import ConfigPanel, Difference
from control_plane.web.pages import pages
from control_plane.web.render import Renderer
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.web.browsing import Browser
from tests.control_plane.web.seeding import (
    AWAY,
    ENTITY,
    EVIL,
    EVIL_ENTITY,
    HALL,
    HOSTILE,
    NEVER,
    RETIRED,
    TRUCK,
    Box,
    Seeds,
    event_id,
    project,
)

NOBODY = Broadcaster(limit=0, lifetime=Lifetime())
EVENT = f"/events/{event_id(ENTITY, 2)}"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> tuple[Path, Seeds]:
    """A fleet on SQLite, put in once; each test gets a copy."""
    folder, clock = tmp_path_factory.mktemp("seeded") / "database", TurnedClock()
    shutil.copytree(sqlite_template, folder)
    with Stores(f"sqlite:///{folder}") as stores:
        seeds = Seeds(stores, clock)
        seeds.fill()
        Accounts(store=stores.business, clock=clock).ensure_admin()
    return folder, seeds


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> str:
    source = request.getfixturevalue("seeded")[0] if "seeds" in request.fixturenames else sqlite_template
    shutil.copytree(source, tmp_path / "database")
    return f"sqlite:///{tmp_path / 'database'}"


@pytest.fixture
def seeds(stores: Stores, clock: TurnedClock, seeded: tuple[Path, Seeds]) -> Seeds:
    made = Seeds(stores, clock)
    made.resume(seeded[1])
    made.connect()
    return made


def standing(stores: Stores, clock: TurnedClock) -> dict[str, tuple[Status, Why]]:
    return {one.id: (one.status, one.why) for one in Fleet(stores=stores, clock=clock).all()}


def test_a_gateway_stands_as_its_words_and_data_say(seeds: Seeds, stores: Stores, clock: TurnedClock) -> None:
    assert standing(stores, clock) == {
        TRUCK: (Status.ONLINE, Why.FINE),
        HALL: (Status.LATE, Why.BEHIND),
        AWAY: (Status.OFFLINE, Why.LEFT),
        NEVER: (Status.NEVER, Why.NEVER),
        RETIRED: (Status.RETIRED, Why.RETIRED),
        HOSTILE: (Status.OFFLINE, Why.LEFT),
    }
    clock.forward(seconds=120)
    assert standing(stores, clock)[TRUCK] == (Status.LATE, Why.QUIET)
    clock.forward(seconds=600)
    assert standing(stores, clock)[TRUCK] == (Status.OFFLINE, Why.QUIET)
    seeds.truck.say()
    assert standing(stores, clock)[TRUCK] == (Status.ONLINE, Why.FINE)
    seeds.truck.say(left_ms=clock.now_ms(), why="the connection broke")
    assert standing(stores, clock)[TRUCK] == (Status.LATE, Why.LEFT)
    clock.forward(seconds=61)
    assert standing(stores, clock)[TRUCK] == (Status.OFFLINE, Why.LEFT)


def test_a_connected_gateway_without_data_is_late(seeds: Seeds, stores: Stores, clock: TurnedClock) -> None:
    clock.forward(seconds=1_000)
    seeds.truck.say()
    assert standing(stores, clock)[TRUCK] == (Status.LATE, Why.NO_DATA)
    seeds.truck.read(2, [clock.now_ms()], [1])
    project(stores, clock)
    assert standing(stores, clock)[TRUCK] == (Status.ONLINE, Why.FINE)


def row_of(page: str, gateway_id: str) -> str:
    found = re.search(rf'<tr id="row-{gateway_id}">.*?</tr>', page, re.DOTALL)
    assert found, gateway_id
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[0]))


def test_the_fleet_says_who_is_slowed_down(seeds: Seeds, admin: Browser, clock: TurnedClock) -> None:
    seeds.truck.say(paced="sends more than 2 batches a second")
    assert "It sends more than its quota and is slowed down" in row_of(admin.text("/"), TRUCK)
    clock.forward(seconds=1)
    seeds.truck.say(paced="")
    assert "quota" not in row_of(admin.text("/"), TRUCK)


def test_the_fleet_says_why(seeds: Seeds, admin: Browser) -> None:
    page = admin.text("/")
    assert "Connected since 10:00; last data 10:00." in row_of(page, TRUCK)
    assert "sending what it kept: 41 batches, oldest from 09:26" in row_of(page, HALL)
    assert "No connection since 07:00 (the connection broke); last data 07:00." in row_of(page, AWAY)
    assert "12 days" in row_of(page, AWAY)
    assert "has not connected yet" in row_of(page, NEVER)
    assert "Retired on 13 Oct, 10:00; its certificate is revoked." in row_of(page, RETIRED)


def test_the_fleet_is_filtered_by_the_address(seeds: Seeds, admin: Browser) -> None:
    def shown(query: str) -> set[str]:
        return set(re.findall(r'id="row-([\w-]+)"', admin.text("/" + query)))

    assert shown("?status=offline") == {AWAY, HOSTILE}
    assert shown("?q=TRUCK-3") == {NEVER}
    assert shown("?q=truck&status=online") == {TRUCK}
    assert shown(f"?q={HALL}") == {HALL}
    assert shown("?q=nobody") == set()
    assert "No gateway fits this filter." in admin.text("/?q=nobody")


def test_the_fleet_says_how_far_each_configuration_is_and_filters_by_it(
    seeds: Seeds, stores: Stores, clock: TurnedClock, admin: Browser
) -> None:
    def shown(way: str) -> set[str]:
        clock.forward(seconds=1)
        return set(re.findall(r'id="row-([\w-]+)"', admin.text(f"/?configuration={way}")))

    digests = {one: f"{number:064x}" for number, one in enumerate((TRUCK, HALL, AWAY, NEVER))}
    with stores.business.write() as connection:
        for one, digest in digests.items():
            connection.execute(insert(config_desired).values(gateway=one, generation=3, hash=digest, change=1))

    def runs(box: Box, digest: str, phase: wire.ConfigPhase.ValueType = wire.CONFIG_IN_SYNC) -> None:
        box.say(running=wire.RunningConfig(generation=3, pushed_hash=bytes.fromhex(digest), phase=phase))

    def told(one: str, phase: wire.ConfigPhase.ValueType) -> None:
        row = {"gateway": one, "generation": 3, "hash": bytes.fromhex(digests[one]), "phase": phase}
        more = {"reason": 0, "pointer": "", "text": "", "retry_at_ms": 0, "received_ms": clock.now_ms()}
        with stores.journal.write() as connection:
            connection.execute(insert(config_status).values(**row, **more))

    runs(seeds.truck, digests[TRUCK])
    runs(seeds.hall, "ff" * 32)
    assert (shown("in_force"), shown("pending"), shown("local")) == ({TRUCK}, {HALL, AWAY, NEVER}, set())
    assert "in force" in row_of(admin.text("/"), TRUCK)
    assert "waiting" in row_of(admin.text("/"), NEVER)
    runs(seeds.hall, digests[HALL], wire.CONFIG_PROBATION)
    assert shown("under_way") == {HALL}
    assert "on probation" in row_of(admin.text("/"), HALL)
    told(AWAY, wire.CONFIG_STAGED)
    assert shown("under_way") == {HALL, AWAY}
    told(AWAY, wire.CONFIG_REJECTED)
    assert shown("refused") == {AWAY}
    assert "rejected" in row_of(admin.text("/"), AWAY)
    told(TRUCK, wire.CONFIG_APPLIED)
    runs(seeds.truck, "ee" * 32)
    assert shown("drifted") == {TRUCK}
    seeds.truck.say(running=wire.RunningConfig(local_management=True, local_hash=b"l"))
    assert shown("local") == {TRUCK}
    assert shown("in_force") == set()
    assert "No gateway fits this filter." in admin.text("/?configuration=in_force")


def test_the_fleet_is_sorted_by_the_address(seeds: Seeds, admin: Browser) -> None:
    def shown(query: str) -> list[str]:
        return re.findall(r'id="row-([\w-]+)"', admin.text("/" + query))

    assert shown("")[-1] == RETIRED
    assert shown("?order=backlog&falling=true")[0] == HALL
    assert shown("?order=certificate")[0] == AWAY
    assert shown("?order=status")[-2:] == [NEVER, RETIRED]
    assert 'aria-sort="descending"' in admin.text("/?order=backlog&falling=true")


def test_a_fleet_that_nobody_looks_at_any_more_says_so(seeds: Seeds, stores: Stores, clock: TurnedClock) -> None:
    FleetIndex(stores=stores, clock=clock).step()
    search = FleetSearch(telemetry=stores.telemetry, clock=clock)
    pages_ = FleetPages(search=search, clock=clock, renderer=Renderer(), broadcaster=NOBODY)
    assert pages_.shown(FleetQuery(), EVERYTHING, clock.now_ms()).looked_ms is None
    looked_ms = clock.now_ms()
    clock.forward(seconds=61)
    assert pages_.shown(FleetQuery(), EVERYTHING, clock.now_ms()).looked_ms == looked_ms


def test_an_empty_fleet_says_what_to_do(admin: Browser) -> None:
    assert "Enrol a gateway" in admin.text("/")
    assert "No event yet" in admin.text("/events")


def test_a_gateway_shows_its_values_and_what_is_wrong_with_them(seeds: Seeds, admin: Browser) -> None:
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", admin.text(f"/gateways/{TRUCK}")))
    assert re.search(r"Supply temperature [\d.]+ °C 10 s ago", page)
    assert "Voltage – the device did not answer · just now" in page
    assert "Temperature 5.08 °C silent since 09:39" in page
    assert "Open no" in page
    assert "the sensor could not be read cooling · 09:11:30 – 09:16:40 · 30 readings" in page
    assert "Managed locally" in page
    assert "Cold-chain excursion closed" in page


def test_what_is_wanted_of_a_configuration_is_shown_beside_what_runs(seeds: Seeds, parts: Parts) -> None:
    from control_plane.api.app import create_app

    panel = ConfigPanel(
        state="PENDING",
        sentence="Waits for the gateway.",
        desired_generation=7,
        desired_hash=b"\xab" * 32,
        differences=(Difference(pointer="/sensor/0/every_s", desired="1.0", running=None),),
    )
    mount = pages(parts, config_view={TRUCK: panel}.get).mount
    browser = Browser(create_app((), accounts=parts.accounts, web=parts.settings.web, mounts=[mount]).test_client())
    browser.sign_in("admin", parts.accounts.reset_password("admin"))
    page = browser.text(f"/gateways/{TRUCK}")
    assert "Waits for the gateway." in page
    assert "abababababab" in page
    assert "/sensor/0/every_s" in page
    assert "Waits for the gateway." not in browser.text(f"/gateways/{HALL}")


def test_an_event_tells_its_life(seeds: Seeds, admin: Browser) -> None:
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", admin.text(EVENT)))
    for words in (
        "Version 1 · First version provisional",
        "Version 2 · Corrected final",
        "Farthest value 10.9 → 11.4",
        "Readings used 82 → 120",
        "Attempt 1 · 09:28:00 · 38 ms · HTTP 503 · failed for the moment the ERP is being updated",
        "delivered to erp · document SM-2026-00412",
        "Acknowledged 09:28:05",
    ):
        assert words in page, words
    look = re.search(r'href="(/gateways/[^"]+from=[^"]+)"', admin.text(EVENT))
    assert look
    assert admin.get(look[1].replace("&amp;", "&")).status_code == 200


def test_events_are_filtered_by_the_address(seeds: Seeds, admin: Browser) -> None:
    def shown(query: str) -> set[str]:
        return set(re.findall(r'href="/events/(evt_[^"]+)"', admin.text("/events" + query)))

    newest, evil = event_id(ENTITY, 2), event_id(EVIL_ENTITY, 1)
    assert shown("") == {newest, evil}
    assert shown("?versions=all") == {newest, evil, event_id(ENTITY, 1)}
    assert shown(f"?gateway={TRUCK}") == {newest}
    assert shown(f"?subject={TRUCK}/cooling/supply_temperature&finality=final") == {newest}
    assert shown("?finality=provisional") == set()
    assert shown("?from=2025-11-22&to=2025-11-22") == {newest, evil}
    assert shown("?from=2025-11-23") == set()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/?status=sleeping", "?status"),
        ("/?colour=red", "?colour"),
        ("/?page=one", "?page"),
        ("/?q=a&q=b", "given more than once"),
        ("/events?finality=perhaps", "?finality"),
        ("/events?from=tomorrow", "?from"),
        ("/events?to=9999-12-31", "?to"),
        ("/events?cursor=%3Cscript%3E", "?cursor"),
        (f"/gateways/{TRUCK}/sensors/cooling?from=yesterday", "?from"),
    ],
)
def test_a_strange_address_gets_a_clear_page(seeds: Seeds, admin: Browser, path: str, words: str) -> None:
    answer = admin.get(path)
    assert answer.status_code == 422
    assert words in answer.text
    assert "Comboio" in answer.text


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/gateways/gw-nothing", f"/gateways/{TRUCK}/sensors/none", "/events/evt_none", "/enrol/x/revoke"],
)
def test_what_is_not_there_gets_a_page_of_ours(seeds: Seeds, admin: Browser, path: str) -> None:
    sent = admin.send(path, "/enrol") if path.startswith("/enrol") else admin.get(path)
    assert sent.status_code == 404
    assert "Not found" in sent.text


def test_the_wrong_method_and_too_large_a_form_get_pages_of_ours(admin: Browser) -> None:
    assert "Not possible here" in admin.client.post("/events").text
    answer = admin.send("/enrol", "/enrol", name="x" * 5000)
    assert answer.status_code == 413
    assert "Too large" in answer.text


def test_a_failure_inside_says_so_without_its_words(
    seeds: Seeds, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(FleetSearch, "rows", fail)
    answer = admin.get("/")
    assert answer.status_code == 500
    assert "Something failed here" in answer.text
    assert "secret detail" not in answer.text


def test_the_api_still_answers_problems(admin: Browser) -> None:
    for path in ("/api/v1/nothing", "/api/v1/gateways"):
        assert admin.get(path).content_type == "application/problem+json"


def test_text_of_strangers_is_escaped_on_every_page(seeds: Seeds, admin: Browser) -> None:
    for path in ("/", f"/gateways/{HOSTILE}", f"/events/{event_id(EVIL_ENTITY, 1)}", "/events", f"/?q={EVIL}"):
        page = admin.client.get(path).text
        assert "&lt;script&gt;" in page
        for planted in ("<script>alert", "<img src=x", "<b onmouseover", "\"'><"):
            assert planted not in page, path


def test_enrolling_keeps_what_was_typed_and_shows_the_token_once(admin: Browser, parts: Parts) -> None:
    bad = admin.send("/enrol", "/enrol", name="", asset="truck-9", life_s="86400")
    assert bad.status_code == 422
    assert 'value="truck-9"' in bad.text
    assert "Give the gateway a name" in bad.text
    assert admin.send("/enrol", "/enrol", name="x", life_s="5").status_code == 422
    made = admin.send("/enrol", "/enrol", name="truck 9", asset="truck-9", life_s="3600")
    token = re.search(r"--token (cj1\.[\w.-]+)", made.text)
    assert token
    assert "<svg" in made.text
    assert token[1] not in admin.text("/enrol")
    assert "truck 9" in admin.text("/enrol")
    (row,) = parts.enrolment.join_tokens.still_open(EVERYTHING, limit=9)
    admin.send(f"/enrol/{row.id}/revoke", "/enrol")
    assert "None is waiting" in admin.text("/enrol")


def test_retiring_revokes(seeds: Seeds, admin: Browser, stores: Stores, clock: TurnedClock) -> None:
    assert admin.send(f"/gateways/{TRUCK}/retire", f"/gateways/{TRUCK}").status_code == 303
    assert standing(stores, clock)[TRUCK] == (Status.RETIRED, Why.RETIRED)


def test_a_suspected_clone_is_said_and_released(seeds: Seeds, admin: Browser, stores: Stores) -> None:
    with stores.journal.write() as connection:
        connection.execute(clone.insert(), {"gateway": TRUCK, "since_ms": 77, "why": "two machines", "hello_id": 1})
    page = admin.get(f"/gateways/{TRUCK}").text
    assert "two boxes use its identity" in page
    assert "Release" in page
    for _ in range(2):  # a second press is no mistake
        assert admin.send(f"/gateways/{TRUCK}/release", f"/gateways/{TRUCK}").status_code == 303
    with stores.business.read() as connection:
        assert connection.execute(select(clone_release.c.since_ms)).scalar_one() == 77


def test_readings_are_given_as_json_and_csv(seeds: Seeds, admin: Browser, clock: TurnedClock) -> None:
    key = f"{TRUCK}/cooling/supply_temperature"
    stretch = f"series={key}&from=2025-11-22T08:00:00Z&to=2025-11-22T10:00:00Z"
    found = admin.get(f"/data/readings?{stretch}").get_json()
    assert found["resolution"] == "raw"
    assert len(found["series"][0]["values"]) == 690
    assert [one["reason"] for one in found["gaps"]] == ["unreadable"]
    lines = admin.get(f"/data/readings.csv?{stretch}").text.splitlines()
    assert lines[0] == "time,series,unit,value,quality"
    assert len(lines) == 1 + 690 + 1
    assert lines[-1].endswith(": unreadable")


def test_fewer_points_never_lose_an_extreme(seeds: Seeds, admin: Browser) -> None:
    stretch = f"series={TRUCK}/cooling/compressor_power&from=2025-11-22T08:00:00Z&to=2025-11-22T10:00:00Z"
    raw = admin.get(f"/data/readings?{stretch}").get_json()["series"][0]["values"]
    few = admin.get(f"/data/readings?{stretch}&max_points=100").get_json()["series"][0]
    assert len(few["times_ms"]) <= 100
    assert (min(few["min"]), max(few["max"]), sum(few["count"])) == (min(raw), max(raw), len(raw))


def test_a_spreadsheet_runs_nothing_from_a_csv(seeds: Seeds, admin: Browser) -> None:
    from control_plane.web.charts import _safe

    assert [_safe(one) for one in ("=1+1", "@x", -4.5, "fine")] == ["'=1+1", "'@x", -4.5, "fine"]


def test_templates_have_no_inline_script_style_or_evaluated_attribute() -> None:
    folder = Path(render.__file__).parent / "templates"
    forbidden = re.compile(
        r"<style|\sstyle=|\son\w+=|hx-on|js:|javascript:|hx-vals=['\"]js|<script(?![^>]*\ssrc=)|https?://"
    )
    for path in folder.glob("*.html"):
        assert not forbidden.search(path.read_text()), path.name
        assert "|safe" not in path.read_text().replace(" ", "")


# --- live ------------------------------------------------------------------------------------------


def test_a_stream_sends_what_changed(
    seeds: Seeds, admin: Browser, lifetime: Lifetime, clock: TurnedClock, stores: Stores
) -> None:
    answer = admin.client.get("/live/fleet?status=late", buffered=False)
    assert answer.content_type.startswith("text/event-stream")
    frames = answer.iter_encoded()
    assert next(frames).startswith(b"retry:")
    first = next(frames)
    assert b"41 batches" in first
    assert TRUCK.encode() not in first
    clock.forward(seconds=1)
    seeds.connect_hall(batches=57)
    FleetIndex(stores=stores, clock=clock).step()
    assert b"57 batches" in next(frames)
    lifetime.follow(lambda: False)
    assert list(frames) == []
    answer.close()


def test_beyond_the_limit_a_stream_is_told_to_come_back(seeds: Seeds, admin: Browser) -> None:
    kept = [admin.client.get("/live/fleet", buffered=False) for _ in range(2)]
    refused = admin.client.get("/live/fleet")
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert admin.get("/").status_code == 200
    kept[0].close()
    again = admin.client.get("/live/fleet", buffered=False)
    assert again.status_code == 200
    for answer in (kept[1], again):
        answer.close()


def test_people_with_the_same_habits_share_one_look_and_one_text() -> None:
    looked, rendered = [], []
    broadcaster = Broadcaster(limit=5, lifetime=Lifetime(), every_s=0.01)

    def look() -> int:
        looked.append(1)
        return 42

    def render_it(value: int) -> str:
        rendered.append(value)
        return str(value)

    streams = [broadcaster.subscribe("a", cursor=lambda: 1, look=look) for _ in range(3)]
    frames = [broadcaster.frames(one, key="en", render=render_it, still=lambda: True) for one in streams]
    for one in frames:
        next(one)
        assert next(one) == b"data: 42\n\n"
        one.close()
    assert (len(looked), rendered) == (1, [42])


def test_a_look_that_fails_is_tried_again() -> None:
    tries = []

    def look() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("the store is away")
        return "back"

    broadcaster = Broadcaster(limit=1, lifetime=Lifetime(), every_s=0.01)
    subscription = broadcaster.subscribe("a", cursor=lambda: 1, look=look)
    with pytest.raises(Retryable):
        broadcaster.subscribe("b", cursor=lambda: 1, look=look)
    seen = subscription.next(5)
    assert seen is not None
    assert seen.value == "back"
    subscription.close()
    subscription.close()


def test_a_message_of_several_lines_stays_one_message() -> None:
    assert event("a\n\nb") == b"data: a\ndata: \ndata: b\n\n"
