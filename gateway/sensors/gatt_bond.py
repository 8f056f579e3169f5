"""Pairing with one peripheral: an agent that answers for this device only, and only while it is being paired.

The bond is bluetoothd's and outlives both programs; one that a technician made (`bluetoothctl pair`) is as good.
"""

from __future__ import annotations

from typing import Any, Literal

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gateway.sensors.gatt_failures import GattFailed

BLUEZ = "org.bluez"
DEVICE = "org.bluez.Device1"
AGENTS = "org.bluez.AgentManager1"
AGENT = "org.bluez.Agent1"
PROPERTIES = "org.freedesktop.DBus.Properties"
AGENT_PATH = "/comboio/agent"
REJECTED = "org.bluez.Error.Rejected"


async def bond(device: str, *, how: Literal["just_works", "passkey"], passkey: int | None, address: str) -> None:
    """Pair with the device of that D-Bus path, unless it is paired. Raises GattFailed bond, DBusError, OSError."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        if await _paired(bus, device):
            return
        if how == "passkey" and passkey is None:
            raise GattFailed(
                "bond",
                f"it answers only who is paired with it: put the digits it shows, or that are printed on it, into a "
                f"passkey_file, or pair it once by hand: bluetoothctl pair {address}",
            )
        await _pair(bus, device, how=how, passkey=passkey)
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def _paired(bus: MessageBus, device: str) -> bool:
    reply = await _call(bus, device, PROPERTIES, "Get", "ss", [DEVICE, "Paired"])
    if reply.message_type is MessageType.ERROR:
        raise GattFailed("hung_up", f"bluetoothd knows it no more ({_text(reply)})")
    return bool(reply.body[0].value)


async def _pair(bus: MessageBus, device: str, *, how: Literal["just_works", "passkey"], passkey: int | None) -> None:
    def answer(message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface != AGENT:
            return None
        return _answer(message, device=device, how=how, passkey=passkey)

    bus.add_message_handler(answer)
    capability = "KeyboardOnly" if how == "passkey" else "NoInputNoOutput"
    registered = await _call(bus, "/org/bluez", AGENTS, "RegisterAgent", "os", [AGENT_PATH, capability])
    if registered.message_type is MessageType.ERROR:
        raise GattFailed("bond", f"bluetoothd refuses a pairing agent ({_text(registered)})")
    try:
        reply = await _call(bus, device, DEVICE, "Pair", "", [])
        if reply.message_type is MessageType.ERROR and reply.error_name != "org.bluez.Error.AlreadyExists":
            raise GattFailed("bond", f"pairing failed ({_text(reply)}): is the passkey right?")
        # Trusted: it may come back by itself, and nobody is asked again.
        await _call(bus, device, PROPERTIES, "Set", "ssv", [DEVICE, "Trusted", Variant("b", True)])
    finally:
        await _call(bus, "/org/bluez", AGENTS, "UnregisterAgent", "o", [AGENT_PATH])


def _answer(message: Message, *, device: str, how: str, passkey: int | None) -> Message:
    """What the agent says: the passkey, or that a pairing without one is as wanted; nothing about any other device."""
    mine = bool(message.body) and message.body[0] == device
    match message.member:
        case "Release" | "Cancel":
            return Message.new_method_return(message)
        case "RequestPasskey" if mine and how == "passkey":
            return Message.new_method_return(message, "u", [passkey])
        case "RequestPinCode" if mine and how == "passkey":
            return Message.new_method_return(message, "s", [f"{passkey:06d}"])
        case "RequestAuthorization" | "RequestConfirmation" if mine and how == "just_works":
            return Message.new_method_return(message)
    return Message.new_error(message, REJECTED, "not this device, or not this way")


async def _call(bus: MessageBus, path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
    return await bus.call(
        Message(destination=BLUEZ, path=path, interface=interface, member=member, signature=signature, body=body)
    )


def _text(reply: Message) -> str:
    said = str(reply.body[0]) if reply.body else ""
    return said or str(reply.error_name).rsplit(".", 1)[-1]
