"""The page over real HTTP."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.errors import Misconfigured
from gateway.field import page as page_module
from gateway.field import pin, views, words
from gateway.field.app import COOKIE
from gateway.field.page import Page
from gateway.health.picture import SENTENCES, Picture
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.config import FieldSection
from tests.gateway.buffer.boxes import TurnedClock
from tests.gateway.health.pictures import picture, sensor, troubled

PIN = "482913"
ANYWHERE = FieldSection(enabled=True, listen="127.0.0.1:0")


@dataclass
class Served:
    page: Page
    url: str
    client: aiohttp.ClientSession
    clock: TurnedClock
    shown: list[Picture]

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.client.get(self.url + path, allow_redirects=False, **options) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, form: dict[str, str], **options: Any) -> tuple[int, str]:
        async with self.client.post(self.url + path, data=form, allow_redirects=False, **options) as answer:
            return answer.status, await answer.text()

    async def sign_in(self, given: str = PIN) -> int:
        return (await self.post("/login", {"pin": given}))[0]


@asynccontextmanager
async def serving(folder: Path, *, longest_s: float = 60.0) -> AsyncIterator[Served]:
    clock, shown = TurnedClock(), [picture(sensor())]
    page = Page(ANYWHERE, data_dir=folder, clock=clock, take=lambda: shown[0], longest_s=longest_s)
    task = asyncio.create_task(page.run())
    while page.port is None:
        assert not task.done(), task
        await asyncio.sleep(0.005)
    jar = aiohttp.CookieJar(unsafe=True)  # of an address instead of a name
    try:
        async with aiohttp.ClientSession(cookie_jar=jar) as client:
            yield Served(page, f"http://127.0.0.1:{page.port}", client, clock, shown)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    pin.write(tmp_path / pin.NAME, PIN)
    async with serving(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/", "/link", "/box", "/?live", "/api/now"])
async def test_nothing_is_shown_without_the_pin(served: Served, path: str) -> None:
    status, text = await served.get(path)
    assert status == (303 if path in views.PAGES.values() else 401)
    assert "cooling" not in text


async def test_the_pin_opens_three_pages_and_their_json(served: Served) -> None:
    assert await served.sign_in() == 303
    texts = {}
    for path in views.PAGES.values():
        status, texts[path] = await served.get(path)
        assert status == 200
    assert "cooling" in texts["/"]
    assert "4.5" in texts["/"]
    assert "fleet.example.com:8444" in texts["/link"]
    assert "150 days left" in texts["/box"]
    status, body = await served.get("/api/now")
    assert (status, msgspec.json.decode(body, type=Picture)) == (200, served.shown[0])


async def test_a_page_renews_its_live_part_alone(served: Served) -> None:
    await served.sign_in()
    served.shown[0] = picture(sensor("other"))
    status, text = await served.get("/?live")
    assert status == 200
    assert text.startswith("<main id=")
    assert "other" in text


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(served: Served) -> None:
    async with served.client.post(served.url + "/login", data={"pin": PIN}, allow_redirects=False) as answer:
        cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize("path", ["/login", "/nothing", "/static/style.css", "/static/%2e%2e%2fapp.py"])
async def test_every_answer_forbids_what_the_page_does_not_need(served: Served, path: str) -> None:
    async with served.client.get(served.url + path) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "'unsafe-inline'" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.status == (404 if path in {"/nothing", "/static/%2e%2e%2fapp.py"} else 200)


async def test_wrong_pins_wait_ever_longer_and_the_right_one_waits_with_them(served: Served) -> None:
    assert [await served.sign_in("000000") for _ in range(3)] == [403, 403, 403]
    assert await served.sign_in(PIN) == 429
    served.clock.mono += 1_001
    assert await served.sign_in("000000") == 403
    served.clock.mono += 1_001
    status, text = await served.post("/login", {"pin": PIN})
    assert status == 429
    assert "Wait 1 s" in text
    served.clock.mono += 1_000
    assert await served.sign_in(PIN) == 303


async def test_the_longest_wait_has_an_end(tmp_path: Path) -> None:
    pin.write(tmp_path / "p", PIN)
    clock = TurnedClock()
    door = pin.Door(tmp_path / "p", clock=clock)
    door._failures = 500
    assert not await door.opens("wrong1")
    assert door.wait_s() == pin.LONGEST_WAIT_S


async def test_of_many_tries_at_once_one_is_looked_at(served: Served) -> None:
    found = await asyncio.gather(*(served.sign_in("000000") for _ in range(8)))
    assert set(found) <= {403, 429}
    assert served.page is not None
    assert await served.sign_in(PIN) in {303, 429}


async def test_a_changed_pin_ends_every_session(served: Served, tmp_path: Path) -> None:
    await served.sign_in()
    pin.write(tmp_path / pin.NAME, "771204")
    assert (await served.get("/"))[0] == 303
    assert await served.sign_in(PIN) == 403
    assert await served.sign_in("771204") == 303


async def test_a_session_ends_when_nobody_looks_and_after_a_day_s_work(served: Served) -> None:
    await served.sign_in()
    for _ in range(11):
        served.clock.mono += 3_600_000
        assert (await served.get("/"))[0] == 200
    served.clock.mono += 2 * 3_600_000
    assert (await served.get("/"))[0] == 303
    await served.sign_in()
    served.clock.mono += 2 * 3_600_000 + 1
    assert (await served.get("/"))[0] == 303


async def test_signing_out_needs_the_form_of_our_page(served: Served) -> None:
    await served.sign_in()
    assert (await served.post("/logout", {"csrf": "x"}))[0] == 403
    _, text = await served.get("/")
    token = re.search(r'name="csrf" value="([^"]+)"', text)
    assert token is not None
    assert (await served.post("/logout", {"csrf": token[1]}, headers={"Origin": "http://evil.example"}))[0] == 403
    assert (await served.get("/"))[0] == 200
    assert (await served.post("/logout", {"csrf": token[1]}))[0] == 303
    assert (await served.get("/"))[0] == 303


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_another_site_can_sign_nobody_in(served: Served, headers: dict[str, str]) -> None:
    assert (await served.post("/login", {"pin": PIN}, headers=headers))[0] == 403
    assert (await served.get("/"))[0] == 303


async def test_without_a_pin_file_nobody_gets_in_and_the_page_says_what_to_do(tmp_path: Path) -> None:
    async with serving(tmp_path) as opened:
        status, text = await opened.post("/login", {"pin": PIN})
        assert status == 403
        assert "comboio-gateway field set-pin" in text


async def test_a_large_form_is_refused(served: Served) -> None:
    assert (await served.post("/login", {"pin": "9" * 100_000}))[0] in {400, 413}


async def test_texts_from_devices_are_shown_as_texts(served: Served) -> None:
    await served.sign_in()
    served.shown[0] = troubled()
    for path in views.PAGES.values():
        _, text = await served.get(path)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text
        assert "\x1b" not in text
        assert "onload='" not in text


@pytest.mark.parametrize(
    ("header", "language"),
    [("pt-BR,pt;q=0.9,en;q=0.8", "pt"), ("de,en;q=0.5,pt;q=0.4", "en"), ("", "en"), ("x;q=y", "en"), ("fr", "en")],
)
async def test_the_reader_s_language_is_spoken(served: Served, header: str, language: str) -> None:
    await served.sign_in()
    _, text = await served.get("/", headers={"Accept-Language": header})
    assert f'<html lang="{language}">' in text
    assert ("4,5" in text) is (language == "pt")


def test_both_catalogues_say_the_same_with_the_same_blanks() -> None:
    read = {name: tomllib.loads((words.FOLDER / f"{name}.toml").read_text()) for name in words.LANGUAGES}
    blanks = {
        name: {key: sorted(re.findall(r"{\w+}", said)) for key, said in found.items()} for name, found in read.items()
    }
    assert blanks["en"] == blanks["pt"]
    assert all(said.strip() for found in read.values() for said in found.values())


@pytest.mark.parametrize("language", words.LANGUAGES)
@pytest.mark.parametrize("shown", [picture(), picture(sensor()), troubled()])
def test_every_sentence_there_is_is_used_by_some_page_and_none_is_missing(language: str, shown: Picture) -> None:
    spoken = words.load()[language]
    for name in views.PAGES:
        views.page(name, shown, spoken, csrf="t")  # a missing one is a KeyError
    if not shown.sensors:
        assert spoken("no_sensors") in views.page("now", shown, spoken, csrf="t")


def test_what_is_red_is_said_in_the_reader_s_language() -> None:
    spoken = words.load()["pt"]
    quiet = sensor("probe", problem="nothing heard for 130 s", cause="silent", age_s=130.0)
    link = msgspec.structs.replace(picture().link, connected=False, connected_s=None, last_error="{server}")
    page = views.page("now", picture(quiet, link=link), spoken, csrf="t")
    assert "sensor probe: nada recebido há 2 min" in page
    assert "não há ligação a fleet.example.com:8444 ({server})" in page
    assert "nothing heard" not in page


def test_the_way_and_what_is_left_of_its_day_are_said_where_there_is_one() -> None:
    spoken = words.load()["pt"]
    link = msgspec.structs.replace(
        picture().link, via="mobile", day_bytes=40_000_000, day_limit_bytes=50_000_000, held_back="80% are used"
    )
    page = views.page("link", picture(link=link), spoken, csrf="t")
    assert all(said in page for said in ("mobile", "40 MB", "50 MB", "80% are used", "Transferido hoje"))
    assert "Transferido hoje" not in views.page("link", picture(), spoken, csrf="t")


def test_the_english_page_says_what_the_status_command_says() -> None:
    said = words.load()["en"].sentences
    assert {key: said[f"red_{key}"] for key in SENTENCES} == SENTENCES


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_state_of_the_wire_contract_has_its_words(language: str) -> None:
    said = words.load()[language].sentences
    wanted = {"phase": ("CONFIG", wire.ConfigPhase.keys()), "clock_source": ("CLOCK", pb.ClockSource.keys())}
    wanted["quality"] = ("QUALITY", pb.Quality.keys())
    for key, (prefix, names) in wanted.items():
        assert {f"{key}_{name.removeprefix(prefix + '_').lower()}" for name in names} <= said.keys()


@pytest.mark.parametrize(
    ("language", "number", "shown"),
    [("en", 1234567.0, "1\u202f234\u202f567"), ("pt", 1234.5, "1234,5"), ("en", -0.00012, "-0.00012"), ("en", 0, "0")],
)
def test_numbers_are_written_as_people_read_them(language: str, number: float, shown: str) -> None:
    assert words.load()[language].number(number) == shown


async def test_more_connections_than_allowed_are_turned_away_and_old_ones_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, longest_s=0.2) as opened:
        assert opened.page.port is not None
        connect: Callable[[], Any] = lambda: asyncio.open_connection("127.0.0.1", opened.page.port)  # noqa: E731
        held = [await connect() for _ in range(page_module.AT_ONCE)]
        await asyncio.sleep(0.02)
        reader, writer = await connect()
        writer.write(b"GET /login HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        async with asyncio.timeout(5):
            assert [await one.read() for one, _ in held] == [b""] * len(held)  # all closed, unasked
        for _, one in [*held, (reader, writer)]:
            one.close()
        assert (await opened.get("/login"))[0] == 200


@pytest.mark.parametrize("listen", ["203.0.113.7:8080", "127.0.0.1:99999", "no-such-host:80"])
async def test_a_place_it_cannot_listen_at_is_said_with_the_setting(tmp_path: Path, listen: str) -> None:
    settings = FieldSection(enabled=True, listen=listen)
    with pytest.raises(Misconfigured, match=r"field\.listen: "):
        await Page(settings, data_dir=tmp_path, clock=TurnedClock(), take=picture).run()
