"""The picture over a Unix socket in the data folder: whoever may read the folder as its owner connects and gets JSON.

The socket's mode is 0600 from its first moment. It takes no words: a connection gets one picture and is closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.errors import ComboioError, Misconfigured
from gateway.health.picture import Picture

NAME = "status.sock"
AT_ONCE = 8
WITHIN_S = 5.0
LIMIT_BYTES = 32 << 20


class NoAnswerError(ComboioError):
    """A daemon runs and says nothing, or nothing that is understood."""


class StatusSocket:
    """`run()` supervised."""

    def __init__(self, folder: Path, *, take: Callable[[], Picture]) -> None:
        self._folder = folder
        self._take = take
        self._open = 0

    async def run(self) -> None:
        with _listening(self._folder) as listener:
            server = await asyncio.start_unix_server(self._answer, sock=listener)
            async with server:
                await server.serve_forever()

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= AT_ONCE:
                writer.write(msgspec.json.encode(self._take()))
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
    try:
        body = _asked(folder)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise Misconfigured(f"{folder / NAME}: only the daemon's own user and root may ask; use sudo") from None
    except TimeoutError:
        raise NoAnswerError(f"{folder / NAME}: the daemon is there and does not answer") from None
    try:
        return msgspec.json.decode(body, type=Picture)
    except msgspec.MsgspecError as error:
        raise NoAnswerError(f"{folder / NAME}: the daemon's answer is not understood ({error})") from None


def _asked(folder: Path) -> bytes:
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, _opened(folder) as way:
        asking.settimeout(WITHIN_S)
        asking.connect(f"{way}/{NAME}")
        while part := asking.recv(1 << 16):
            parts.append(part)
            if sum(map(len, parts)) > LIMIT_BYTES:
                break
    return b"".join(parts)
