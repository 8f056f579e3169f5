"""A simulated controller that is never the one that is killed, in a thread of the test; and the road to the far end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.simulators.faults import Fault
from gateway.simulators.link import LinkProxy
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_unit import SimulatedUnit
from gateway.simulators.modbus_written import Misbehaviour, Written
from gateway.simulators.read_log import ReadLog

PROFILE = "comboio-controller@1"
T = TypeVar("T")


class Controller:
    """Unit 1 of a device on loopback. Every call is made in its own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clock = SystemClock()
        self._unit = SimulatedUnit(unit=1, profile=Profiles().modbus(PROFILE), signals={})
        log = ReadLog(path=None, clock=self._clock)
        self._device = ModbusDevice(units={1: self._unit}, log=log, clock=self._clock)
        self.port = self.wait(self._device.start())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, call: Callable[[], T]) -> T:
        async def called() -> T:
            return call()

        return self.wait(called())

    @property
    def writes(self) -> list[Written]:
        """Every request that asked to change something."""
        return self._call(lambda: list(self._unit.writes.requests))

    @property
    def polls(self) -> int:
        """How often all of it was read; commands read less."""
        reads = self._unit._reads
        return self._call(lambda: min(reads["input"][0], reads["holding"][1], reads["coil"][0]))

    def spoil(self, **fault: Any) -> None:
        self._call(lambda: self._device.faults.add(Fault(**fault)))

    def tell(self, **how: Any) -> None:
        self._call(lambda: self._unit.writes.tell(Misbehaviour(**how)))

    def mend(self) -> None:
        self._call(self._device.faults.clear)

    def close(self) -> None:
        self.wait(self._device.close())


class Road:
    """Between a gateway and the control plane; may be cut."""

    def __init__(self, controller: Controller, to: str) -> None:
        host, _, port = to.rpartition(":")
        self._controller = controller
        self._proxy = LinkProxy(to=(host, int(port)))
        self.address = f"127.0.0.1:{controller.wait(self._proxy.start())}"

    def cut(self) -> None:
        self._controller.wait(self._proxy.cut())

    def mend(self) -> None:
        self._controller.wait(self._proxy.restore())

    def close(self) -> None:
        self._controller.wait(self._proxy.close())


@contextmanager
def controller() -> Iterator[Controller]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller")
    thread.start()
    try:
        made = Controller(loop)
        yield made
        made.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
