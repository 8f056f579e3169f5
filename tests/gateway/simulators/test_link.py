"""The link that can be broken: what passes, what doesn't, and what the two ends see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.simulators.control import ControlPort
from gateway.simulators.link import DOWN, LinkProxy, obey


@asynccontextmanager
async def echo_behind_a_link() -> AsyncIterator[LinkProxy]:
    handlers: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = LinkProxy(to=("127.0.0.1", server.sockets[0].getsockname()[1]))
    await link.start()
    try:
        yield link
    finally:
        await link.close()
        server.close()
        await asyncio.gather(*handlers)


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def says(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 5)


@asynccontextmanager
async def call(link: LinkProxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


async def test_an_open_link_passes_both_ways() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        assert await caller.says(b"x" * 200_000) == b"x" * 200_000
        assert link.passed_bytes == 400_000


async def test_half_closing_passes_too() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        caller.writer.write(b"last words")
        caller.writer.write_eof()
        assert await asyncio.wait_for(caller.reader.read(), 5) == b"last words"


async def test_a_cut_link_resets_what_is_open_and_refuses_what_is_new() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        await caller.says(b"hello")
        await link.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(caller.reader.readexactly(1), 5)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
        port = link.port
        await link.restore()
        assert link.port == port
        async with call(link) as again:
            assert await again.says(b"back") == b"back"


async def test_a_black_hole_keeps_everything_open_and_passes_nothing_until_restored() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        await caller.says(b"hello")
        link.black_hole()
        caller.writer.write(b"anyone?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.reader.read(1), 0.1)
        async with call(link) as newcomer:
            newcomer.writer.write(b"me too")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(newcomer.reader.read(1), 0.1)
            await link.restore()
            assert await asyncio.wait_for(newcomer.reader.readexactly(6), 5) == b"me too"
        assert await asyncio.wait_for(caller.reader.readexactly(7), 5) == b"anyone?"


async def test_a_hole_in_one_direction_lets_the_other_pass() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        await caller.says(b"hello")
        link.black_hole(DOWN)
        caller.writer.write(b"it arrives")
        async with asyncio.timeout(5):
            while link.passed_bytes < 20:
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.reader.read(1), 0.1)
        await link.restore()
        assert await asyncio.wait_for(caller.reader.readexactly(10), 5) == b"it arrives"


async def test_a_trickle_passes_byte_by_byte_and_whole() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        link.trickle(1)
        assert await caller.says(b"a sentence in many pieces") == b"a sentence in many pieces"


async def test_a_slow_link_is_as_slow_as_said() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        link.slow(bytes_per_s=100_000)
        begun = time.monotonic()
        await caller.says(b"x" * 10_000)  # 0.1 s each way
        assert 0.2 <= time.monotonic() - begun < 1.0


async def test_a_link_with_delay_is_late() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        link.slow(delay_s=0.05)
        begun = time.monotonic()
        await caller.says(b"x")
        assert 0.1 <= time.monotonic() - begun < 0.5


async def test_a_link_resets_exactly_after_the_bytes_it_was_told() -> None:
    async with echo_behind_a_link() as link, call(link) as caller:
        link.reset_after(15)
        await caller.says(b"hello")  # 10 bytes, both ways together
        caller.writer.write(b"world")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(caller.reader.readexactly(5), 5)
        assert link.passed_bytes == 15
        async with call(link) as again:  # only once
            assert await again.says(b"x" * 100) == b"x" * 100


async def test_an_upstream_that_is_away_looks_like_a_reset() -> None:
    link = LinkProxy(to=("127.0.0.1", 1))
    await link.start()
    async with call(link) as caller:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(caller.reader.readexactly(1), 5)
    await link.close()


async def test_a_link_obeys_one_line_commands_over_its_control_port() -> None:
    async with echo_behind_a_link() as link:
        control = ControlPort(handler=lambda line: obey(link, line))
        port = await control.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def ask(line: str) -> str:
            writer.write(line.encode() + b"\n")
            return (await asyncio.wait_for(reader.readline(), 5)).decode().strip()

        assert await ask("status") == "passing connections=0 passed=0"
        assert await ask("blackhole") == "ok"
        assert await ask("status") == "blackhole connections=0 passed=0"
        assert await ask("cut") == "ok"
        assert (await ask("status")).startswith("cut ")
        assert await ask("restore") == "ok"
        assert await ask("blackhole up") == "ok"
        assert (await ask("status")).startswith("blackhole-up ")
        assert await ask("blackhole sideways") == "error: a black hole is up, down or, without either, both"
        assert await ask("trickle 1") == "ok"
        assert await ask("trickle 0") == "error: a piece has at least one byte"
        assert await ask("slow 1000 50") == "ok"
        assert await ask("reset-after 10") == "ok"
        assert await ask("slow -1") == "error: bytes_per_s is above 0, delay_s not below"
        assert (await ask("slow fast")).startswith("error: ")
        assert (await ask("explode")).startswith("error: 'explode' is not one of cut, restore")
        writer.close()
        await control.close()
