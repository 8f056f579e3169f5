"""The picture over a Unix socket in the data folder: whoever may read the folder as its owner connects and gets JSON.

The socket's mode is 0600 from its first moment. A connection that says nothing gets one picture, one that says
`explain TAG` and a line's end an explanation, one that says `write …` what became of it, one that
says `identify BUS UNIT` what a device is; then it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.errors import ComboioError, Misconfigured
from gateway.health.explanation import Explanation
from gateway.health.picture import Picture

NAME = "status.sock"
AT_ONCE = 8
WITHIN_S = 5.0
SAYS_WITHIN_S = 0.2
LIMIT_BYTES = 32 << 20
EXPLAIN, WRITE, IDENTIFY = "explain", "write", "identify"
WRITTEN_WITHIN_S = 130.0
T = TypeVar("T")


class NoAnswerError(ComboioError):
    """A daemon runs and says nothing, or nothing that is understood."""


def _nothing(tag: str) -> Explanation:
    return Explanation(tag=tag, known=False, wrong=["nothing here explains it"])


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a write asked here. `state` as commands have it, without COMMAND_."""

    state: str
    text: str
    before: bool | float | str | None = None
    holds: bool | float | str | None = None


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """What a device said that it is."""

    said: dict[str, str] = {}
    problem: str = ""
    """Why it said nothing."""
    here: bool = True
    """False: this daemon does not use that bus."""


Identifies = Callable[[str, int], Awaitable[Identified]]
"""Bus and unit. Never raises."""


async def _no_bus(bus: str, unit: int) -> Identified:
    del bus, unit
    return Identified(here=False)


Writes = Callable[[bytes], Awaitable[Asked]]
"""Of a write's arguments as JSON. Never raises."""


async def _no_writes(_: bytes) -> Asked:
    return Asked(state="UNSUPPORTED", text="nothing can be written here")


class StatusSocket:
    """`run()` supervised."""

    def __init__(
        self,
        folder: Path,
        *,
        take: Callable[[], Picture],
        explain: Callable[[str], Explanation] = _nothing,
        write: Writes = _no_writes,
        identify: Identifies = _no_bus,
    ) -> None:
        self._identify = identify
        self._write = write
        self._folder = folder
        self._take = take
        self._explain = explain
        self._open = 0

    async def run(self) -> None:
        with _listening(self._folder) as listener:
            server = await asyncio.start_unix_server(self._answer, sock=listener)
            async with server:
                await server.serve_forever()

    async def _asked(self, reader: asyncio.StreamReader) -> Picture | Explanation | Asked | Identified:
        try:
            async with asyncio.timeout(SAYS_WITHIN_S):
                said = (await reader.readline()).decode(errors="replace").strip()
        except (TimeoutError, ValueError):  # it says nothing, or too much
            said = ""
        word, _, tag = said.partition(" ")
        if word == WRITE:
            return await self._write(tag.encode())
        if word == IDENTIFY:
            bus, _, unit = tag.partition(" ")
            return await self._identify(bus, int(unit) if unit.isdecimal() else 1)
        return self._explain(tag) if word == EXPLAIN else self._take()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= AT_ONCE:
                writer.write(msgspec.json.encode(await self._asked(reader)))
                async with asyncio.timeout(WITHIN_S):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # whoever asked has gone, or does not read
        finally:
            self._open -= 1
            if self._open >= 0 and not writer.is_closing():
                writer.transport.abort()


@contextmanager
def _listening(folder: Path) -> Iterator[socket.socket]:
    """Bound by way of the open folder: the address of a Unix socket holds 107 bytes, a path may be longer."""
    (folder / NAME).unlink(missing_ok=True)  # the folder's lock is ours: it is a dead daemon's
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, _opened(folder) as way:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(f"{way}/{NAME}")
        try:
            yield listener
        finally:
            (folder / NAME).unlink(missing_ok=True)


@contextmanager
def _opened(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def ask(folder: Path) -> Picture | None:
    """The running daemon's picture; None when none runs on this folder.

    Raises Misconfigured when this user may not ask, NoAnswerError when it does not answer in time.
    """
    return _told(folder, "", Picture)


def ask_why(folder: Path, tag: str) -> Explanation | None:
    """The running daemon's explanation of a tag; the rest as `ask`."""
    return _told(folder, f"{EXPLAIN} {' '.join(tag.split())}\n", Explanation)


def ask_to_write(folder: Path, arguments: bytes) -> Asked | None:
    """Have the running daemon write; `arguments` is a `protos.commands.Write` as JSON. The rest as `ask`."""
    return _told(folder, f"{WRITE} {arguments.decode()}\n", Asked, within_s=WRITTEN_WITHIN_S)


def ask_to_identify(folder: Path, bus: str, unit: int) -> Identified | None:
    """Have the running daemon ask a device what it is. The rest as `ask`."""
    return _told(folder, f"{IDENTIFY} {bus} {unit}\n", Identified, within_s=WRITTEN_WITHIN_S)


def _told(folder: Path, words: str, answer: type[T], *, within_s: float = WITHIN_S) -> T | None:
    try:
        body = _answered(folder, words, within_s)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise Misconfigured(f"{folder / NAME}: only the daemon's own user and root may ask; use sudo") from None
    except TimeoutError:
        raise NoAnswerError(f"{folder / NAME}: the daemon is there and does not answer") from None
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.MsgspecError as error:
        raise NoAnswerError(f"{folder / NAME}: the daemon's answer is not understood ({error})") from None


def _answered(folder: Path, words: str, within_s: float) -> bytes:
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, _opened(folder) as way:
        asking.settimeout(within_s)
        asking.connect(f"{way}/{NAME}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # turned away: there are too many
            asking.sendall(words.encode())
            asking.shutdown(socket.SHUT_WR)
            while part := asking.recv(1 << 16):
                parts.append(part)
                if sum(map(len, parts)) > LIMIT_BYTES:
                    break
    return b"".join(parts)
