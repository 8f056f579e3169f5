"""One TCP connection to Modbus devices: connects when needed, reads, and says clearly why a read gave nothing.

pymodbus does the protocol; this file is the only one that knows it. Three of its habits are turned off: it drops a
connection that serves many units because one is dead, it waits out the timeout on a connection already closed, and it
prints whole frames. Not safe for concurrent reads: it belongs to one bus task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from firmware_configs.budget import Request
from gateway.sensors.modbus_frames import (
    EXCEPTIONS,
    RESPONSES,
    ReadFailed,
    checked,
    exception_answer,
    objection,
    silence,
)
from gateway.sensors.modbus_writes import Write
from protos.config import ModbusBus as BusOptions

_SILENT_LIMIT = 5
"""Reads in a row without a byte, over all units, after which the connection itself is doubted."""


class Link(Protocol):
    """What a poll is given."""

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        """Exactly `request.length` registers (or bits as 0 and 1). Raises ReadFailed, nothing else."""

    async def write(self, unit: int, write: Write) -> Sequence[int]:
        """Ask once, never again by itself. Returns what 23 read, else nothing.

        Raises ReadFailed. Cause "exception": the device refused. "unreachable": it was not asked. Any other: it may
        have acted.
        """


class ModbusTcpLink:
    """Life cycle: `read` any number of times from one task, connecting by itself; `close` at the end."""

    def __init__(self, *, options: BusOptions, seed: int | None = None) -> None:
        self._options = options
        self._where = f"{options.host}:{options.port}"
        self._random = random.Random(seed)  # noqa: S311 - jitter
        self._client: AsyncModbusTcpClient | None = None
        self._asked: tuple[int, Request] | None = None
        self._heard = b""
        self._silent = 0
        self._reason = ""
        self._delay_s = 0.0
        self._retry_at = 0.0
        self._rest_until = 0.0
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        client = self._client
        if client is None or not client.connected:
            client = await self._connect()
        if self._options.pause_ms:
            await asyncio.sleep(max(0.0, self._rest_until - time.monotonic()))
        try:
            values = await self._exchange(client, unit, request)
        except ReadFailed as failure:
            self._judge(failure)
            raise
        finally:
            self._asked = None
            if self._options.pause_ms:
                self._rest_until = time.monotonic() + self._options.pause_ms / 1000.0
        self._silent = 0
        self._delay_s = 0.0
        return values

    async def write(self, unit: int, write: Write) -> Sequence[int]:
        client = self._client
        if client is None or not client.connected:
            client = await self._connect()
        if self._options.pause_ms:
            await asyncio.sleep(max(0.0, self._rest_until - time.monotonic()))
        try:
            response = await _WRITE[write.function](client, write, unit)
        except ModbusException:
            if not client.connected:
                raise ReadFailed("closed", f"{self._where}: closed the connection instead of answering") from None
            text = f"unit {unit}, function {write.function}: no answer within {self._options.timeout_s:g} s"
            raise ReadFailed("timeout", text) from None
        finally:
            if self._options.pause_ms:
                self._rest_until = time.monotonic() + self._options.pause_ms / 1000.0
        if response.isError():
            code = response.exception_code
            text = EXCEPTIONS.get(code, "not defined by Modbus")
            raise ReadFailed(
                "exception", f"unit {unit}, function {write.function}: exception {code} ({text})", code=code
            )
        return response.registers if write.function == 23 else ()

    def close(self) -> None:
        """Close the connection, if any; the next read opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _drop(self) -> None:
        """Close with a reset: a question still on its way dies with its connection, and no device answers it later."""
        transport = self._client.ctx.transport if self._client is not None else None
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    async def _exchange(self, client: AsyncModbusTcpClient, unit: int, request: Request) -> Sequence[int]:
        self._asked, self._heard = (unit, request), b""
        if client.ctx.recv_buffer:
            raise ReadFailed("malformed", f"{self._where}: bytes nobody asked for")
        try:
            response = await _ASK[request.function](client, request.address, request.length, unit)
        except ModbusException:
            if not client.connected:
                raise ReadFailed("closed", f"{self._where}: closed the connection instead of answering") from None
            transaction = client.ctx.request_transaction_id
            raise silence(self._heard, unit, request, transaction, self._options.timeout_s) from None
        if response.isError():
            raise exception_answer(unit, request, response.exception_code)
        return checked(unit, request, response.bits if request.function in {"coil", "discrete"} else response.registers)

    def _judge(self, failure: ReadFailed) -> None:
        """Keep a connection on which a unit is merely silent; leave one whose bytes can't be trusted."""
        if failure.cause == "exception":
            self._silent = 0
            self._delay_s = 0.0
            return
        self._silent += 1
        if failure.cause != "timeout" or self._silent >= _SILENT_LIMIT:
            self._silent = 0
            self._drop()
            if failure.cause in {"protocol", "closed"}:
                self._back_off()

    # --- connecting ---------------------------------------------------------------------------------

    async def _connect(self) -> AsyncModbusTcpClient:
        self.close()
        if time.monotonic() < self._retry_at:
            raise ReadFailed("unreachable", self._reason or f"{self._where}: waiting to connect again")
        client = self._new_client()
        dial = client.ctx.call_create
        client.ctx.call_create = lambda: self._dial(dial)
        self._reason = f"{self._where}: no connection within {self._options.timeout_s:g} s"
        if not await client.connect():
            client.close()
            self._back_off()
            raise ReadFailed("unreachable", self._reason)
        self._reason = ""
        self._client = client
        return client

    async def _dial(self, dial: Callable[[], Awaitable[Any]]) -> Any:
        """Keep what pymodbus only logs: why connecting failed."""
        try:
            return await dial()
        except OSError as error:
            self._reason = f"{self._where}: {error.strerror or error}; is the device on and this its address?"
            raise

    def _back_off(self) -> None:
        """Decorrelated jitter up to 2 s, the first retry included."""
        self._delay_s = min(2.0, self._random.uniform(0.05, max(0.1, self._delay_s * 3)))
        self._retry_at = time.monotonic() + self._delay_s

    def _new_client(self) -> AsyncModbusTcpClient:
        client = AsyncModbusTcpClient(
            self._options.host,
            port=self._options.port,
            timeout=self._options.timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_packet=self._on_bytes,
            trace_connect=self._on_connection,
        )
        client.set_max_no_responses(10**6)
        # a burst of late answers, or a page of HTML, must reach `objection` and not be thrown away unseen
        client.ctx.max_buffer_size = 1 << 16
        for response in RESPONSES.values():
            client.register(response)
        return client

    # --- called by pymodbus -------------------------------------------------------------------------

    def _on_bytes(self, sending: bool, data: bytes) -> bytes:
        if sending or self._asked is None or self._client is None:
            return data
        self._heard = data
        failure = objection(data, *self._asked, self._client.ctx.request_transaction_id)
        if failure is None:
            return data
        self._fail(failure)
        return b""

    def _on_connection(self, connected: bool) -> None:
        if not connected and self._asked is not None:
            self._fail(ReadFailed("closed", f"{self._where}: closed the connection instead of answering"))

    def _fail(self, failure: ReadFailed) -> None:
        future = self._client.ctx.response_future if self._client is not None else None
        if future is not None and not future.done():
            future.set_exception(failure)


_Ask = Callable[[AsyncModbusTcpClient, int, int, int], Awaitable[ModbusPDU]]
_ASK: dict[str, _Ask] = {
    "coil": lambda c, address, count, unit: c.read_coils(address, count=count, device_id=unit),
    "discrete": lambda c, address, count, unit: c.read_discrete_inputs(address, count=count, device_id=unit),
    "holding": lambda c, address, count, unit: c.read_holding_registers(address, count=count, device_id=unit),
    "input": lambda c, address, count, unit: c.read_input_registers(address, count=count, device_id=unit),
}


def _write_and_read(client: AsyncModbusTcpClient, write: Write, unit: int) -> Awaitable[ModbusPDU]:
    read = write.read
    assert read is not None
    return client.readwrite_registers(
        read_address=read.address,
        read_count=read.length,
        write_address=write.address,
        values=list(write.values),
        device_id=unit,
    )


_Tell = Callable[[AsyncModbusTcpClient, Write, int], Awaitable[ModbusPDU]]
_WRITE: dict[int, _Tell] = {
    5: lambda c, w, unit: c.write_coil(w.address, bool(w.values[0]), device_id=unit),
    6: lambda c, w, unit: c.write_register(w.address, w.values[0], device_id=unit),
    15: lambda c, w, unit: c.write_coils(w.address, [bool(bit) for bit in w.values], device_id=unit),
    16: lambda c, w, unit: c.write_registers(w.address, list(w.values), device_id=unit),
    22: lambda c, w, unit: c.mask_write_register(
        address=w.address, and_mask=w.values[0], or_mask=w.values[1], device_id=unit
    ),
    23: _write_and_read,
}
