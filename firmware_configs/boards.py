"""Gateway computers: where their serial ports, power-fail input, clock, radio and lights are.

Facts, each with its source. A file `boards/<vendor>-<model>.toml` per computer; adding one is adding a file.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from firmware_configs.loader import ProfileError
from firmware_configs.schema import Frozen, Slug, Source
from protos.strict import DocumentError, convert

DevicePath = Annotated[str, Meta(pattern=r"^/(dev|sys)/[^\s]+$", title="a path below /dev or /sys")]
Text = Annotated[str, Meta(min_length=1)]


class SerialPort(Frozen, frozen=True, kw_only=True):
    """One serial port by the name on the case."""

    id: Slug
    path: DevicePath
    """Stable: the same after every start, whatever else is plugged in."""
    also: tuple[DevicePath, ...] = ()
    """Other names of the same port."""
    modes: Annotated[tuple[Literal["rs232", "rs422", "rs485"], ...], Meta(min_length=1)]
    direction: Literal["kernel", "hardware", ""] = ""
    """Who switches RS-485 between sending and listening: the kernel's serial driver, or a circuit; not the gateway."""
    prepare: str = ""
    """What has to be done once before it is an RS-485 port, e.g. an overlay or a command."""
    termination: str = ""
    isolated: bool | None = None
    max_baud: Annotated[int, Meta(ge=300)] | None = None
    source: Text


class PowerFail(Frozen, frozen=True, kw_only=True):
    """Where it shows that the supply fails."""

    input: DevicePath
    """Reads 1 then: the value for power.fail_input."""
    needs: str = ""
    """What has to be installed for it to be there."""
    source: Text


class Clock(Frozen, frozen=True, kw_only=True):
    """A real-time clock that goes on without supply."""

    chip: str = ""
    path: DevicePath | None = None
    source: Text


class Radio(Frozen, frozen=True, kw_only=True):
    """A Bluetooth adapter."""

    adapter: Annotated[str, Meta(pattern=r"^hci[0-9]+$")]
    chip: str = ""
    source: Text


class Led(Frozen, frozen=True, kw_only=True):
    """A light that programs may use: /sys/class/leds/<name>."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.-]+$")]
    colour: str = ""
    source: Text


class Board(Frozen, frozen=True, kw_only=True):
    """One computer that a gateway runs on. What is left out is not known, or it has none."""

    vendor: Slug
    model: Slug
    description: Text
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    serial: tuple[SerialPort, ...] = ()
    power_fail: PowerFail | None = None
    clock: Clock | None = None
    bluetooth: tuple[Radio, ...] = ()
    led: tuple[Led, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}"


class Boards:
    """The boards of a folder (default: those shipped)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(__file__).parent / "boards"

    def all(self) -> Iterator[Board]:
        """By name. Raises ProfileError at the first that can't be used."""
        return (load_board(path) for path in sorted(self._folder.glob("*.toml")))

    def board(self, name: str) -> Board:
        """`vendor-model`. Raises ProfileError."""
        known = sorted(path.stem for path in self._folder.glob("*.toml"))
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ProfileError(f"{name!r}: no such board; {meant}")
        return load_board(self._folder / f"{name}.toml")


def serial_path(board: Board, name: str) -> str:
    """The device behind the name on the case, e.g. rs485-1. Raises ProfileError, which says which ports it has."""
    for port in board.serial:
        if port.id == name:
            return port.path
    ports = ", ".join(port.id for port in board.serial) or "none that is known"
    raise ProfileError(f"{board.name} has no serial port {name!r}; it has {ports}")


def load_board(path: Path) -> Board:
    """Read and check one file. Raises ProfileError with every mistake, each with its path."""
    try:
        board = convert(tomllib.loads(path.read_text(encoding="utf-8")), Board)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise ProfileError("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from error
    found = list(_problems(board))
    if path.stem != board.name:
        found.append(f"vendor, model: this file should be named {board.name}.toml")
    if found:
        raise ProfileError("\n".join(f"{path.name}: {text}" for text in found))
    return board


def _problems(board: Board) -> Iterator[str]:
    known = {source.id for source in board.sources}
    parts: list[tuple[str, SerialPort | PowerFail | Clock | Radio | Led]] = [
        *((f"serial {port.id}", port) for port in board.serial),
        *((f"bluetooth {radio.adapter}", radio) for radio in board.bluetooth),
        *((f"led {led.name}", led) for led in board.led),
    ]
    parts += [("power_fail", board.power_fail)] if board.power_fail else []
    parts += [("clock", board.clock)] if board.clock else []
    for path, part in parts:
        if part.source.split(" ")[0].rstrip(",:") not in known:
            yield f"{path}: source {part.source!r} doesn't begin with one of {', '.join(sorted(known))}"
    paths = [path for path, _ in parts]
    yield from (f"{path}: is listed twice" for path in sorted({one for one in paths if paths.count(one) > 1}))
