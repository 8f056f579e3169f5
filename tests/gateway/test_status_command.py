"""A person asks a real daemon how it is."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faults import daemons
from tests.faults.daemons import ROOT, enrolled, once, running, until

PIN = "482913"


def asked(home: Path, *arguments: str) -> tuple[int, Any]:
    done = once(home, *arguments)
    return done.returncode, json.loads(done.stdout)


def watched(home: Path, *, looks: int) -> list[str]:
    """How each look of `sensors --watch` begins, until Ctrl-C."""
    listening = ["env", "--default-signal=INT"]  # whatever started the tests may ignore it
    command = [*listening, sys.executable, "-u", "-m", "gateway", "sensors", "--watch", "--data-dir", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        begins = (line.partition(",")[0] for line in watching.stdout if line.startswith(("ok", "!!", "..")))
        found = list(islice(begins, looks))
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read() == ""
    assert watching.returncode == 130
    return found


def test_status_and_sensors_say_how_the_box_is_and_go_by_exit_codes(tmp_path: Path) -> None:
    home = tmp_path / "gateway"
    home.mkdir()
    enrolled(home)
    assert asked(home, "status") == (3, {"running": False, "buffer": None})
    with running(home) as daemon:
        until(lambda: asked(home, "status")[1]["link"]["last_error"])
        code, picture = asked(home, "status")
        assert code == 1
        assert [line.partition(":")[0] for line in picture["red"]] == ["link"]
        assert picture["identity"]["gateway_id"] == "gw-aaaaaaaaaa"
        assert 179 < picture["identity"]["certificate_days_left"] <= 180
        assert picture["configuration"]["management"] == "local"
        assert 10e6 < picture["box"]["rss_bytes"] < 200e6
        assert picture["link"]["server"] == daemons.NOBODY
        said = subprocess.run(
            [sys.executable, "-m", "gateway", "status", "--data-dir", str(home)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (said.returncode, said.stderr) == (1, "")
        assert "ok counter" in said.stdout
        code, first = asked(home, "sensors")
        _, second = asked(home, "sensors")
        assert watched(home, looks=2) == ["ok counter (simulated)"] * 2
        assert daemon.stop() == 0
    assert code == 0
    (before,), (after,) = first[0]["values"], second[0]["values"]
    assert (before["quantity"], before["unit"], before["quality"]) == ("count", "1", "good")
    assert after["value"] > before["value"] > 0
    assert first[0]["age_s"] < 2
    assert first[0]["counters"]["rows_taken"] >= before["value"] - 1
    code, left = asked(home, "status")
    assert code == 3
    assert left["buffer"]["lanes"]["telemetry"]["sealed"] >= 1


def test_the_page_shows_what_the_command_says_and_polling_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "gateway"
    home.mkdir()
    enrolled(home)
    page = '[field]\nenabled = true\nlisten = "127.0.0.1:0"\n'
    monkeypatch.setattr(daemons, "CONFIG", daemons.CONFIG.replace("[[sensor]]", page + "[[sensor]]"))
    set_pin = [sys.executable, "-m", "gateway", "field", "set-pin", "--stdin", "--data-dir", str(home)]
    subprocess.run(set_pin, cwd=ROOT, input=PIN + "\n", text=True, check=True, capture_output=True)
    with running(home) as daemon:
        until(lambda: [one for one in daemon.events() if one["event"] == "field.serving"])
        (serving,) = [one for one in daemon.events() if one["event"] == "field.serving"]
        url = f"http://127.0.0.1:{serving['port']}"
        browser = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
        )
        with pytest.raises(urllib.error.HTTPError):
            browser.open(f"{url}/api/now", timeout=5)
        browser.open(f"{url}/login", data=f"pin={PIN}".encode(), timeout=5).close()
        with browser.open(f"{url}/api/now", timeout=5) as answer:
            shown = json.load(answer)
        assert shown["sensors"][0]["id"] == "counter"
        assert shown["identity"]["gateway_id"] == asked(home, "status")[1]["identity"]["gateway_id"] == "gw-aaaaaaaaaa"

    taken = f'listen = "127.0.0.1:{serving["port"]}"'
    monkeypatch.setattr(daemons, "CONFIG", daemons.CONFIG.replace('listen = "127.0.0.1:0"', taken))
    with socket.create_server(("127.0.0.1", serving["port"])), running(home):
        until(lambda: [one for one in asked(home, "status")[1]["parts"] if one["name"] == "page"])
        before = asked(home, "sensors")[1][0]["values"][0]["value"]
        until(lambda: asked(home, "sensors")[1][0]["values"][0]["value"] > before)


def test_a_gateway_without_the_page_does_not_load_what_serves_it() -> None:
    code = "import sys, gateway.daemon; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
