from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.control import ROOT
from tests.journeys.browser import AXE, FLAGS


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    missing = "no chromium on PATH (apt-get install chromium)" if not shutil.which("chromium") else ""
    if not AXE.exists():
        missing = f"{AXE.relative_to(ROOT)} is not there: run make setup"
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        yield browser
        browser.close()
