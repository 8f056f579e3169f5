"""The box's own page in a real browser, on the phone of somebody who stands beside the box."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from playwright.sync_api import Page as BrowserPage

from gateway.clock import SystemClock
from gateway.field import pin, views
from gateway.field.page import Page
from gateway.health.picture import Picture, Value
from protos.config import FieldSection
from tests.gateway.health.pictures import HOSTILE, picture, sensor, troubled
from tests.journeys.browser import WIDE, Watched

pytestmark = pytest.mark.journey
PIN = "482913"
PHONE = (360, 740)
LARGE = 1_700_000_000.0


class Box:
    """A page that shows `picture`, served by a loop in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._pin_path = folder / pin.NAME
        self.new_pin()
        self.picture = well()
        settings = FieldSection(enabled=True, listen="127.0.0.1:0")
        self._page = Page(settings, data_dir=folder, clock=SystemClock(), take=lambda: self.picture)
        self._serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="field page")

    def new_pin(self) -> None:
        pin.write(self._pin_path, PIN)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._page.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._serving.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.create_task(self._page.run())
        while self._page.port is None:
            await asyncio.sleep(0.005)
        self._serving.set()
        await asyncio.wait([self._task])


def well() -> Picture:
    """A truck's box on a good day: long names, many sensors, numbers of every size."""
    tracker = [
        Value(quantity="latitude", unit="deg", value=38.7223456, quality="good"),
        Value(quantity="longitude", unit="deg", value=-9.1393112, quality="good"),
        Value(quantity="speed", unit="km/h", value=87.25, quality="good"),
    ]
    meter = [
        Value(quantity="total_active_energy", unit="kW.h", value=LARGE, quality="good"),
        Value(quantity="import_maximum_total_system_power_demand", unit="W", value=0.00012, quality="uncertain"),
        Value(quantity="phase_1_line_to_neutral_volts", unit="V", value=231.4, quality="good"),
    ]
    return picture(
        sensor(),
        sensor("probe-rear", driver="ble", age_s=2.1),
        sensor("tracker", driver="mqtt", asset="truck-17", values=tracker),
        sensor("energy-meter-of-the-cooling-unit", values=meter, counters={"polls": 120_000, "rows_taken": 119_998}),
        sensor("dock-climate", heard=False, age_s=None, values=[], counters={}),
    )


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("field")) as started:
        yield started


@pytest.fixture
def box(serving: Box) -> Box:
    serving.picture = well()
    return serving


Open = Callable[..., Watched]


@pytest.fixture
def browse(serving: Box, chromium: Browser) -> Iterator[Open]:
    """Opens a browser window, signed in unless said otherwise."""
    contexts: list[BrowserContext] = []

    def opened(size: tuple[int, int] = PHONE, *, signed_in: bool = True, **options: Any) -> Watched:
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, locale=options.pop("locale", "en-GB"), **options
        )
        context.set_default_timeout(15_000)
        context.clock.install()
        contexts.append(context)
        watched = Watched(context, serving.url)
        if signed_in:
            sign_in(watched)
        return watched

    yield opened
    for context in contexts:
        context.close()


def sign_in(watched: Watched) -> None:
    page = watched.go("/")
    page.locator("#pin").fill(PIN)
    page.locator("button[type=submit]").click()
    expect(page.locator("#live")).to_be_visible()


LOOKS = pytest.mark.parametrize(
    ("size", "locale", "scheme"),
    [
        pytest.param(WIDE, "en-GB", "light", id="1440-en-light"),
        pytest.param(PHONE, "pt-BR", "dark", id="360-pt-dark"),
    ],
)


def two_seconds_later(page: BrowserPage) -> None:
    page.clock.fast_forward(2000)


@LOOKS
def test_every_page_is_whole_in_both_languages_by_day_and_by_night(
    browse: Open, box: Box, size: tuple[int, int], locale: str, scheme: str
) -> None:
    watched = browse(size, locale=locale, color_scheme=scheme)
    for shown, kind in ((well(), "well"), (troubled(), "troubled")):
        box.picture = shown
        for name, path in views.PAGES.items():
            page = watched.go(path)
            assert page.locator("html").get_attribute("lang") == locale[:2]
            if name == "now" or kind == "troubled":  # the others are made of the same
                watched.axe()
            watched.check()
            watched.picture(f"field-{name}-{kind}-{size[0]}-{locale[:2]}-{scheme}")


@LOOKS
def test_the_pin_page_is_whole_and_says_what_is_wrong(
    browse: Open, box: Box, size: tuple[int, int], locale: str, scheme: str
) -> None:
    watched = browse(size, signed_in=False, locale=locale, color_scheme=scheme)
    page = watched.go("/box")
    expect(page).to_have_url(f"{box.url}/login")
    expect(page.locator("#pin")).to_be_focused()
    watched.axe()
    watched.check()
    watched.picture(f"field-pin-{size[0]}-{locale[:2]}-{scheme}")
    page.keyboard.type("000000")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    watched.wrong.clear()  # the browser itself reports the 403
    watched.axe()
    watched.check()
    page.keyboard.type(PIN)
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_be_visible()
    page.locator("header button").click()
    expect(page).to_have_url(f"{box.url}/login")


def test_what_changes_is_shown_without_a_reload_and_what_is_unfolded_stays_so(browse: Open, box: Box) -> None:
    watched = browse()
    page = watched.page
    page.evaluate("window.stayed = true")
    page.locator("#more-cooling summary").click()
    warmer = msgspec.structs.replace(sensor().values[0], value=7.25)
    box.picture = picture(sensor(values=[warmer]))
    two_seconds_later(page)
    expect(page.locator(".card", has_text="cooling").first).to_contain_text("7.25")
    expect(page.locator("#more-cooling")).to_have_attribute("open", "")
    expect(page.locator("#more-cooling summary")).to_be_focused()
    assert page.evaluate("window.stayed") is True
    watched.check()
    box.picture = well()
    two_seconds_later(page)
    expect(page.locator(".values", has_text="total active energy")).to_contain_text("1 700 000 000 kWh")


def test_a_box_that_does_not_answer_is_said_and_forgotten_when_it_does(browse: Open, box: Box) -> None:
    watched = browse()
    page = watched.page
    page.context.set_offline(True)
    two_seconds_later(page)
    expect(page.locator("#offline")).to_be_visible()
    expect(page.get_by_role("heading", name="cooling").first).to_be_visible()
    page.context.set_offline(False)
    for _ in range(100):
        two_seconds_later(page)  # as often as it takes: it may be waiting for an answer at the moment
        if page.locator("#offline").is_hidden():
            break
    expect(page.locator("#offline")).to_be_hidden()


def test_a_changed_pin_sends_to_the_pin_page(browse: Open, box: Box) -> None:
    watched = browse()
    box.new_pin()
    two_seconds_later(watched.page)
    expect(watched.page).to_have_url(f"{box.url}/login")


def test_texts_from_strangers_stay_texts(browse: Open, box: Box) -> None:
    watched = browse()
    box.picture = troubled()
    for path in views.PAGES.values():
        page = watched.go(path)
        assert page.locator("main script, [onload]").count() == 0
    expect(watched.go("/").locator(".why").first).to_contain_text(HOSTILE[:20])
    watched.check()


def test_fingers_hit_what_they_aim_at(browse: Open, box: Box) -> None:
    page = browse().page
    page.wait_for_load_state("load")  # with its styles
    for one in page.locator("a, button, summary").all():
        found = one.bounding_box()
        assert found is not None
        assert found["height"] >= 44, one.inner_text()
