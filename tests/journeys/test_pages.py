"""The pages in a real browser, against a real `comboio-control up` over a seeded fleet.

COMBOIO_SCREENSHOTS=<folder> keeps a picture of every page.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from control_plane.clock import SystemClock
from control_plane.fleet.search import FleetSearch
from control_plane.store.engine import Stores
from control_plane.store.tables import command, event, series
from tests.control import Up, running
from tests.control_plane.web.seeding import ENTITY, EVIL, EVIL_ENTITY, HALL, HOSTILE, TRUCK, Seeds, beat
from tests.journeys.browser import PHONE, WIDE, Watched

pytestmark = pytest.mark.journey


class Plane:
    """A started control plane with a fleet, and somebody to look at it."""

    def __init__(self, up: Up, seeds: Seeds, password: str) -> None:
        self.up, self.seeds, self.password = up, seeds, password
        self.state: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return self.up.http

    def event(self, entity: str) -> str:
        with self.seeds.stores.business.read() as connection:
            query = event.select().where(event.c.entity_id == entity, event.c.current)
            return f"/events/{connection.execute(query).one().id}"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("pages")
    with Stores(f"sqlite:///{folder}") as stores:
        stores.migrate()
        seeds = Seeds(stores, SystemClock())
        seeds.fill()
        with running(folder) as up:
            seeds.connect()
            wait_for_the_index(stores)
            yield Plane(up, seeds, up.announced["admin_password"])


def wait_for_the_index(stores: Stores) -> None:
    """Until the worker has taken in who is connected: the fleet is shown from its index."""
    search = FleetSearch(telemetry=stores.telemetry, clock=SystemClock())
    deadline = time.monotonic() + 60
    while (found := search.some([HALL]).get(HALL)) is None or found.standing.presence is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


Open = Callable[..., Watched]


@pytest.fixture
def browse(plane: Plane, chromium: Browser) -> Iterator[Open]:
    """Opens a browser window, signed in unless said otherwise."""
    contexts: list[BrowserContext] = []

    def opened(size: tuple[int, int] = WIDE, *, signed_in: bool = True, **options: Any) -> Watched:
        if signed_in and not plane.state:
            plane.state = sign_in(chromium, plane)
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            locale=options.pop("locale", "en-GB"),
            timezone_id="America/Sao_Paulo",
            storage_state=plane.state if signed_in else None,  # type: ignore[arg-type]
            **options,
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        return Watched(context, plane.url)

    yield opened
    for context in contexts:
        context.close()


def sign_in(chromium: Browser, plane: Plane) -> dict[str, Any]:
    context = chromium.new_context(timezone_id="America/Sao_Paulo")
    page = context.new_page()
    page.goto(plane.url + "/login")
    fill_in(page, plane.password)
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    state: dict[str, Any] = context.storage_state()  # type: ignore[assignment]
    context.close()
    return state


def fill_in(page: Page, password: str) -> None:
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def paths(plane: Plane) -> dict[str, str]:
    return {
        "fleet": "/",
        "gateway": f"/gateways/{TRUCK}",
        "sensor": f"/gateways/{TRUCK}/sensors/cooling?range=6h",
        "events": "/events",
        "event": plane.event(ENTITY),
        "enrol": "/enrol",
        "missing": "/gateways/gw-nothing",
    }


@pytest.mark.parametrize("name", ["fleet", "gateway", "sensor", "events", "event", "enrol", "missing"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1440", "360"])
def test_a_page_is_whole_at_every_width(browse: Open, plane: Plane, name: str, size: tuple[int, int]) -> None:
    watched = browse(size)
    page = watched.go(paths(plane)[name])
    if name == "missing":
        watched.wrong.clear()  # the browser itself reports the 404
    if name == "sensor":
        expect(page.locator(".newest tbody tr").first).to_be_visible()
    watched.axe()
    watched.check()
    watched.picture(f"{name}-{size[0]}")


@pytest.mark.parametrize("name", ["fleet", "sensor", "event"])
def test_a_page_is_readable_in_the_dark_and_in_portuguese(browse: Open, plane: Plane, name: str) -> None:
    watched = browse(WIDE, color_scheme="dark", locale="pt-BR")
    page = watched.go(paths(plane)[name])
    if name == "sensor":
        expect(page.locator(".newest tbody tr").first).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "pt-BR"
    watched.axe()
    watched.check()
    watched.picture(f"{name}-dark-pt")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1440", "360"])
def test_setting_a_value_asks_once_more_and_shows_what_becomes_of_it(
    browse: Open, plane: Plane, size: tuple[int, int]
) -> None:
    key, stores = f"{TRUCK}/meter/voltage", plane.seeds.stores
    with stores.telemetry.write() as connection:
        connection.execute(series.update().where(series.c.key == key).values(attrs='{"writable": "true"}'))
    watched = browse(size)
    page = watched.go(f"/gateways/{TRUCK}/sensors/meter?range=6h")
    page.get_by_label("voltage").fill(str(size[0]))
    page.get_by_role("button", name="Set voltage").click()
    expect(page.get_by_label("Yes, change the device")).not_to_be_checked()  # the browser asks for it first
    page.get_by_label("Yes, change the device").check()
    page.get_by_role("button", name="Set voltage").click()
    asked = page.locator("#commands li").filter(has_text=f"voltage → {size[0]}")
    expect(asked).to_contain_text("waiting for the gateway")
    watched.axe()
    watched.picture(f"command-{size[0]}")
    with stores.business.write() as connection:
        mine = command.update().where(command.c.value == str(size[0]))
        connection.execute(mine.values(state="done", ended_ms=1, until_ms=None))
    expect(asked.locator(".badge")).to_have_text("done")  # without a reload
    watched.check()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["1440", "360"])
def test_signing_in_says_what_is_wrong_and_keeps_what_was_typed(
    browse: Open, plane: Plane, size: tuple[int, int]
) -> None:
    watched = browse(size, signed_in=False)
    page = watched.go("/events?finality=final")
    expect(page).to_have_url(re.compile("/login"))
    watched.axe()
    watched.picture(f"login-{size[0]}")
    watched.check()
    fill_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("This name and password do not fit together.")
    expect(page.get_by_label("Name")).to_have_value("admin")
    fill_in(page, plane.password)
    expect(page).to_have_url(plane.url + "/events?finality=final")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(plane.url + "/login")
    page.goto(plane.url + "/")
    expect(page).to_have_url(plane.url + "/login")


def test_a_live_value_changes_without_a_reload(browse: Open, plane: Plane) -> None:
    watched = browse()
    page = watched.go(f"/gateways/{TRUCK}")
    row = page.locator(".values li", has_text="Return temperature")
    expect(row).to_be_visible()
    page.evaluate("window.stayed = true")
    now_ms = SystemClock().now_ms()
    plane.seeds.truck.read(1, [now_ms], [77], [-123], [900])
    expect(row.locator(".value")).to_contain_text("-12.3", timeout=10_000)
    assert page.evaluate("window.stayed") is True
    watched.check()


def test_the_fleet_changes_without_a_reload_and_keeps_its_filter(browse: Open, plane: Plane) -> None:
    plane.seeds.truck.say(beat())
    watched = browse()
    page = watched.go("/?status=late")
    row = page.locator(f"#row-{HALL}")
    expect(row).to_contain_text("41 batches")
    plane.seeds.connect_hall(batches=57)
    expect(row).to_contain_text("57 batches", timeout=10_000)
    assert page.locator(f"#row-{TRUCK}").count() == 0
    watched.check()


def test_a_page_goes_on_after_the_web_process_was_restarted(browse: Open, plane: Plane) -> None:
    page = browse().go(f"/gateways/{TRUCK}")
    row = page.locator(".values li", has_text="Compressor power")
    plane.seeds.truck.read(1, [SystemClock().now_ms()], [77], [55], [901])
    expect(row.locator(".value")).to_contain_text("901", timeout=10_000)  # so a stream is open
    page.evaluate("window.stayed = true")
    before = plane.up.pids()["web"]
    os.kill(before, signal.SIGTERM)
    for _ in range(2400):
        if plane.up.pids().get("web") not in (before, None):
            break
        page.wait_for_timeout(25)
    else:
        pytest.fail("open streams kept the web process from ending")
    plane.seeds.truck.read(1, [SystemClock().now_ms()], [77], [55], [902])
    expect(row.locator(".value")).to_contain_text("902", timeout=20_000)
    assert page.evaluate("window.stayed") is True


def test_typing_filters_the_fleet_and_the_address_keeps_it(browse: Open, plane: Plane) -> None:
    watched = browse()
    page = watched.go("/")
    page.get_by_role("searchbox").press_sequentially("warehouse")
    expect(page.locator(f"#row-{TRUCK}")).to_have_count(0)
    expect(page.locator(f"#row-{HALL}")).to_be_visible()
    expect(page).to_have_url(re.compile(r"q=warehouse"))
    page.reload()
    expect(page.get_by_role("searchbox")).to_have_value("warehouse")
    expect(page.locator(f"#row-{TRUCK}")).to_have_count(0)
    watched.check()


def test_a_chart_shows_what_was_lost_and_why(browse: Open) -> None:
    watched = browse()
    page = watched.go(f"/gateways/{TRUCK}/sensors/cooling?range=6h")
    expect(page.locator(".lost li")).to_contain_text("the sensor could not be read")
    expect(page.locator(".legend .known").first).to_contain_text(
        re.compile(r"Coverage [\d.]+% · clock error ± [\d,]+ ms")
    )
    canvas = page.locator(".u-over").first
    box = canvas.bounding_box()
    assert box is not None
    said = set()
    for step in range(60):  # the mouse finds the gap by its words
        page.mouse.move(box["x"] + box["width"] * (0.6 + 0.4 * step / 60), box["y"] + 40)
        said.add(page.locator(".readout").first.inner_text())
    assert any("Lost" in text and "the sensor could not be read" in text for text in said)
    assert any("Supply temperature" in text and "°C" in text for text in said)
    assert broken_inside_the_gap(page)
    watched.check()


def broken_inside_the_gap(page: Page) -> bool:
    """Whether the picture has the gap's shade, and no line through it."""
    found: bool = page.evaluate("""() => {
      const canvas = document.querySelector(".plot canvas");
      const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const near = (x, y, colour) => {
        const at = 4 * (y * width + x);
        return colour.every((part, i) => Math.abs(data[at + i] - part) < 25);
      };
      const has = (x, to, colour) => {
        for (let y = 0; y < to; y++) if (near(x, y, colour)) return true;
        return false;
      };
      const shaded = [...Array(width).keys()].filter((x) => has(x, 40, [208, 104, 95]) || has(x, 40, [193, 58, 46]));
      const middle = shaded[Math.floor(shaded.length / 2)];
      return shaded.length > 2 && !has(middle, height, [11, 107, 203]) && has(middle - 40, height, [11, 107, 203]);
    }""")
    return found


def test_a_stretch_can_be_looked_at_closely_and_the_address_keeps_it(browse: Open) -> None:
    watched = browse()
    page = watched.go(f"/gateways/{TRUCK}/sensors/cooling?range=6h")
    expect(page.locator(".newest tbody tr").first).to_be_visible()
    box = page.locator(".u-over").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + 60, steps=5)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"from=.*&to="))
    with page.expect_download() as download:
        page.get_by_role("link", name="All of it as CSV").click()
    written = download.value.path().read_text().splitlines()
    assert written[0] == "time,series,unit,value,quality"
    assert len(written) > 100
    page.reload()
    expect(page.locator(".newest tbody tr").first).to_be_visible()
    watched.check()


def test_a_gateway_is_enrolled_from_the_page(browse: Open, plane: Plane) -> None:
    watched = browse(permissions=["clipboard-read", "clipboard-write"])
    page = watched.go("/enrol")
    page.get_by_label("Name of the gateway").fill("truck 99")
    page.get_by_label("Vehicle or place").fill("truck-99")
    page.get_by_role("button", name="Make the token").click()
    command = page.locator("#command").inner_text()
    assert re.fullmatch(rf"comboio-gateway enrol --server {plane.url} --token cj1\.[\w-]+\.[0-9a-f]{{64}}", command)
    expect(page.locator(".qr svg")).to_be_visible()
    watched.axe()
    watched.picture("enrol-made-1440")
    page.get_by_role("button", name="Copy", exact=True).first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.get_by_role("button", name="Revoke the token for truck 99").click()
    expect(page.get_by_text("None is waiting to be used.")).to_be_visible()
    watched.check()


def test_markup_from_strangers_is_text_on_every_page(browse: Open, plane: Plane) -> None:
    watched = browse()
    shown = {
        "/": EVIL,
        f"/?q={EVIL[:20].replace('<', '%3C')}": EVIL,
        f"/gateways/{HOSTILE}": EVIL[:60],
        plane.event(EVIL_ENTITY): EVIL,
        "/events": EVIL[:60],
        f"/events?type={EVIL.replace('<', '%3C').replace('#', '%23')}": "No event fits this filter.",
    }
    for path, text in shown.items():
        page = watched.go(path)
        expect(page.locator("main")).to_contain_text(text)
        harmless(page)
    page = watched.go(f"/gateways/{HOSTILE}")
    page.locator(".sensor h3 a").click()
    expect(page.locator(".newest tbody tr").first).to_be_visible()
    expect(page.locator("h1")).to_have_text(EVIL[:60])
    harmless(page)
    watched.picture("hostile")
    watched.check()


def harmless(page: Page) -> None:
    for planted in ("img[src=x]", "main script", "[onmouseover]", "[onerror]", "main b[onmouseover]"):
        assert page.locator(planted).count() == 0, planted


def test_everything_can_be_reached_by_keyboard(browse: Open) -> None:
    watched = browse()
    page = watched.go("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    names = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))
    assert "truck 17" in names
