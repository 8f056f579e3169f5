"""What `boards list` and `boards show` tell of gateway computers."""

from __future__ import annotations

from collections.abc import Iterator

from firmware_configs.boards import Board, SerialPort
from gateway.library.tables import table


def list_text(boards: list[Board]) -> str:
    """For a person."""
    rows = [(one.name, ", ".join(port.id for port in one.serial) or "–", one.description) for one in boards]
    return table(("board", "serial ports", "what it is"), rows)


def show_text(board: Board) -> str:
    """For a person."""
    return "\n".join(_lines(board))


def _lines(board: Board) -> Iterator[str]:
    yield f"{board.name}: {board.description}\n"
    for port in board.serial:
        yield from _port(port)
    if board.power_fail is not None:
        needs = f" ({board.power_fail.needs})" if board.power_fail.needs else ""
        yield f'power.fail_input = "{board.power_fail.input}"{needs}  [{board.power_fail.source}]'
    if board.clock is not None:
        yield f"clock: {board.clock.chip or 'yes'} {board.clock.path or ''}  [{board.clock.source}]"
    for radio in board.bluetooth:
        yield f"Bluetooth {radio.adapter}: {radio.chip}  [{radio.source}]"
    for led in board.led:
        yield f"LED /sys/class/leds/{led.name} {led.colour}  [{led.source}]"
    yield "\nsources"
    for source in board.sources:
        yield f"  {source.id}: {source.title}{'  ' + source.url if source.url else ''}"


def _port(port: SerialPort) -> Iterator[str]:
    also = f" (also {', '.join(port.also)})" if port.also else ""
    yield f"{port.id}: {port.path}{also}, {' or '.join(port.modes)}  [{port.source}]"
    directions = {"kernel": "the kernel switches direction", "hardware": "a circuit switches direction", "": ""}
    facts = [
        directions[port.direction],
        port.prepare,
        port.termination,
        "isolated" if port.isolated else "",
        f"up to {port.max_baud} baud" if port.max_baud else "",
    ]
    yield from (f"  {fact}" for fact in facts if fact)
