"""Gateway computers: every shipped board loads, names its sources, and gives the device behind a port's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.boards import Board, Boards, load_board, serial_path
from firmware_configs.loader import ProfileError
from protos.config import PowerSection
from protos.strict import convert

SHIPPED = list(Boards().all())
GOOD = """
vendor = "acme"
model = "box"
description = "x"
[[sources]]
id = "manual"
title = "the manual"
[[serial]]
id = "rs485-1"
path = "/dev/ttyS1"
modes = ["rs485"]
source = "manual, page 1"
"""


def test_there_are_boards_with_a_serial_port_of_stable_name() -> None:
    assert sum(bool(board.serial) for board in SHIPPED) >= 5


@pytest.mark.parametrize("board", SHIPPED, ids=lambda board: board.name)
def test_a_board_is_found_by_its_name_and_every_fact_names_more_than_a_document(board: Board) -> None:
    assert Boards().board(board.name) == board
    sources = [one.source for one in board.serial] + [one.source for one in board.led]
    sources += [one.source for one in (board.clock,) if one] + [one.source for one in (board.power_fail,) if one]
    assert all(len(source) > len(source.split(",")[0]) for source in sources)


@pytest.mark.parametrize("board", [board for board in SHIPPED if board.power_fail], ids=lambda board: board.name)
def test_a_power_fail_input_is_one_that_the_configuration_takes(board: Board) -> None:
    assert board.power_fail is not None
    assert convert({"fail_input": board.power_fail.input}, PowerSection).fail_input == board.power_fail.input


def test_the_name_on_the_case_gives_the_device() -> None:
    assert serial_path(Boards().board("wiren-board-7"), "rs485-2") == "/dev/ttyRS485-2"


def test_a_port_that_is_not_there_says_which_are() -> None:
    with pytest.raises(ProfileError, match=r"wiren-board-7 has no serial port 'com1'; it has rs485-1, rs485-2"):
        serial_path(Boards().board("wiren-board-7"), "com1")


def test_an_unknown_board_gets_a_suggestion() -> None:
    with pytest.raises(ProfileError, match="did you mean siemens-iot2050"):
        Boards().board("siemens-iot2040")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('path = "/dev/ttyS1"', 'path = "COM1"'), r"serial\[0\]\.path"),
        (("manual, page 1", "hearsay"), "serial rs485-1: source 'hearsay' doesn't begin with one of manual"),
        (('model = "box"', 'model = "other"'), "this file should be named acme-other.toml"),
        (('modes = ["rs485"]', 'mode = ["rs485"]'), "did you mean modes"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = tmp_path / "acme-box.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ProfileError, match=text) as caught:
        load_board(path)
    assert str(caught.value).startswith("acme-box.toml: ")
