"""One connection to one peripheral, on unmodified bleak: everything in it has an end, and its failures are sentences.

After a bluetoothd that was killed bleak goes on believing that it is connected, and its calls may never return. So the
end of the adapter comes from outside (`lost`), each call is given up when the connection ends or its time is over, and
a call that can't even be given up is abandoned: it holds nothing that the next connection needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.exc import BleakError, BleakGATTProtocolError
from bleak_retry_connector import establish_connection
from dbus_fast.errors import DBusError

from firmware_configs.characteristics import GattProfile, GattValue, GattWrite, whole
from gateway.sensors.gatt_bond import bond
from gateway.sensors.gatt_failures import GattFailed
from gateway.sensors.gatt_peripherals import Peripherals, Seen

ATTEMPTS = 2
GRACE_S = 3.0
"""To end after being given up."""
CLOSE_S = 5.0
EXPLAIN_S = 2.0
PAIRING = "pairing"
FAILURES = (BleakError, DBusError, OSError, EOFError, TimeoutError, AssertionError, AttributeError, KeyError)
"""What bleak's calls end with; it asserts that its bus is there, and looks up what a dying daemon took away."""
UNPAIRED = ("Not paired", "INSUFFICIENT_AUTHENTICATION", "INSUFFICIENT_ENCRYPTION", "INSUFFICIENT_AUTHORIZATION")
T = TypeVar("T")
Told = Callable[[str, bytes], None]
"""(characteristic as a whole UUID, its value)."""

log = structlog.get_logger("gateway.gatt")


class GattLink:
    """Life cycle: `open`, then any of the others, then `close`, also after a failure of any of them."""

    def __init__(self, *, seen: Seen, name: str, profile: GattProfile, peripherals: Peripherals) -> None:
        self._seen = seen
        self._name = name
        self._profile = profile
        self._peripherals = peripherals
        self._client: BleakClient | None = None
        self._ended = asyncio.Event()
        self._failure: GattFailed | None = None
        self._closing = False
        self._until_s = 0.0

    # --- its end ------------------------------------------------------------------------------------

    def lost(self, why: str) -> None:
        """The adapter or bluetoothd went away."""
        self._end(GattFailed("adapter", f"the connection ended: {why}"))

    @property
    def over(self) -> bool:
        return self._ended.is_set() or self._closing

    async def ends(self, *, within_s: float) -> None:
        """Return after that time. Raises GattFailed as soon as the connection has ended."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return
        raise self._over()

    def _hung_up(self, _: BleakClient) -> None:
        if not self._closing:
            self._end(GattFailed("hung_up", "it ended the connection, or went out of range"))

    def _end(self, failure: GattFailed) -> None:
        if self._failure is None:
            self._failure = failure
        self._ended.set()

    def _over(self) -> GattFailed:
        return self._failure or GattFailed("hung_up", "the connection ended")

    # --- what can be done with it -------------------------------------------------------------------

    def within(self, seconds: float) -> None:
        """All that follows must be done in that time together."""
        self._until_s = asyncio.get_running_loop().time() + seconds

    async def open(self, *, passkey: int | None) -> None:
        """Connect, pair if the profile asks for it, and see that everything it names is there. Raises GattFailed."""
        self._client = await self._do(self._connected(), "connecting")
        if self._profile.bond != "none":
            device = str(self._seen.device.details["path"])
            how = self._profile.bond
            address = self._seen.device.address
            await self._do(bond(device, how=how, passkey=passkey, address=address), PAIRING)
        for value in self._profile.value:
            if not value.optional:
                self._characteristic(value)

    async def write(self, write: GattWrite) -> None:
        client, characteristic = self._open, self._characteristic(write)
        data = bytes.fromhex(write.hex)
        writing = client.write_gatt_char(characteristic, data, response=write.response)
        await self._do(writing, f"writing {write.characteristic}")

    async def subscribe(self, values: Sequence[GattValue], told: Told) -> None:
        uuid = whole(values[0].characteristic)

        def notified(_: BleakGATTCharacteristic, data: bytearray) -> None:
            if not self.over:
                self._peripherals.answered(self._seen.adapter)
                told(uuid, bytes(data))

        characteristic = self._characteristic(values[0])
        starting = self._open.start_notify(characteristic, notified)
        await self._do(starting, f"subscribing to {values[0].characteristic}")

    async def read(self, values: Sequence[GattValue]) -> Mapping[str, bytes]:
        """Each characteristic once: whole UUID → its value now; what is optional and not there is left out."""
        said: dict[str, bytes] = {}
        for value in values:
            uuid = whole(value.characteristic)
            if uuid in said:
                continue
            characteristic = self._found(value)
            if characteristic is None and value.optional:
                continue
            reading = self._open.read_gatt_char(characteristic or self._characteristic(value))
            said[uuid] = bytes(await self._do(reading, f"reading {value.characteristic}"))
            self._peripherals.answered(self._seen.adapter)
        if not said:
            raise self._lacks(values[0])
        return said

    async def close(self) -> None:
        """Disconnect; in bounded time, whatever bluetoothd does. Never raises."""
        self._closing = True
        client, self._client = self._client, None
        if client is None:
            return
        task: asyncio.Task[object] = asyncio.ensure_future(client.disconnect())
        await asyncio.wait([task], timeout=CLOSE_S)
        await self._give_up(task)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.debug("gatt.close", sensor=self._name, error=str(error))

    # --- inside -------------------------------------------------------------------------------------

    @property
    def _open(self) -> BleakClient:
        if self._client is None:
            raise self._over()
        return self._client

    async def _connected(self) -> BleakClient:
        return await establish_connection(
            BleakClient,
            self._seen.device,
            self._name,
            disconnected_callback=self._hung_up,
            max_attempts=ATTEMPTS,
            use_services_cache=False,
        )

    async def _do(self, work: Coroutine[Any, Any, T], doing: str) -> T:
        """Its result, unless the connection ends or the time is over first. Raises GattFailed."""
        task = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._ended.wait())
        left_s = max(0.0, self._until_s - asyncio.get_running_loop().time())
        try:
            await asyncio.wait([task, ended], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and doing == PAIRING:  # who fails to pair hangs up first and says why afterwards
                await asyncio.wait([task], timeout=EXPLAIN_S)
            if task.done():
                return task.result()
            if ended.done():
                raise self._over()
            raise GattFailed("timeout", f"it did not answer in time while {doing}")
        except FAILURES as error:
            raise self._told(error, doing) from error
        finally:
            ended.cancel()
            await self._give_up(task)

    async def _give_up(self, task: asyncio.Task[Any]) -> None:
        if task.done():
            return
        task.cancel()
        await asyncio.wait([task], timeout=GRACE_S)
        if not task.done():
            log.warning("gatt.abandoned", sensor=self._name)
            self._peripherals.abandon(task)
        elif not task.cancelled():
            task.exception()

    def _told(self, error: BaseException, doing: str) -> GattFailed:
        said = str(error) or type(error).__name__
        if self._ended.is_set():
            return self._over()
        if any(one in said for one in UNPAIRED):
            return GattFailed(
                "bond",
                f"it answers only who is paired with it, or has forgotten the pairing ({said}); "
                f"then: bluetoothctl remove {self._seen.device.address}, and pair anew",
            )
        if isinstance(error, BleakGATTProtocolError):
            return GattFailed("refused", f"it refuses {doing}: {said}")
        if doing == "connecting":
            rssi = "" if self._seen.rssi is None else f" at {self._seen.rssi} dBm"
            return GattFailed("unreachable", f"it is heard{rssi}, and the connection fails: {said}")
        return GattFailed("hung_up", f"the connection broke while {doing}: {said}")

    def _found(self, what: GattValue | GattWrite) -> BleakGATTCharacteristic | None:
        service, characteristic = whole(what.service), whole(what.characteristic)
        for one in self._open.services:
            if one.uuid.lower() == service:
                for candidate in one.characteristics:
                    if candidate.uuid.lower() == characteristic:
                        return candidate
        return None

    def _characteristic(self, what: GattValue | GattWrite) -> BleakGATTCharacteristic:
        found = self._found(what)
        if found is None:
            raise self._lacks(what)
        return found

    def _lacks(self, what: GattValue | GattWrite) -> GattFailed:
        has = ", ".join(sorted(_short(one.uuid) for one in self._open.services)) or "none"
        return GattFailed(
            "services",
            f"it has no characteristic {what.characteristic} in a service {what.service}; its services: {has}. "
            f"Is it a device of {self._profile.name}?",
        )


def _short(uuid: str) -> str:
    text = uuid.lower()
    return text[4:8] if text.startswith("0000") and text.endswith("-0000-1000-8000-00805f9b34fb") else text
