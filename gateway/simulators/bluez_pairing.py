"""Pairing agents and the bonds they make: `org.bluez.AgentManager1` and `Device1.Pair`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dbus_fast import Message, MessageType

from gateway.simulators.bluez_errors import Answer, Ask, BluezError, LaterAnswer
from gateway.simulators.bluez_peripheral import Peripheral

AGENTS = "org.bluez.AgentManager1"
AGENT = "org.bluez.Agent1"
ASK_S = 60.0


class Agents:
    """Who may be asked for a passkey: the agent of the client that pairs, else the default one."""

    def __init__(self, *, ask: Ask) -> None:
        self._ask = ask
        self._agents: dict[str, tuple[str, str]] = {}
        """Client → path and capability."""
        self._default: str | None = None
        self.handlers: Mapping[tuple[str, str], LaterAnswer] = {
            (AGENTS, "RegisterAgent"): self._register,
            (AGENTS, "UnregisterAgent"): self._unregister,
            (AGENTS, "RequestDefaultAgent"): self._request_default,
        }

    def gone(self, client: str) -> None:
        self._agents.pop(client, None)
        if self._default == client:
            self._default = None

    def clear(self) -> None:
        self._agents.clear()
        self._default = None

    async def bond(self, client: str, device: str, peripheral: Peripheral) -> None:
        """Raises BluezError as BlueZ does when there is no agent, it refuses, or the passkey is wrong."""
        if peripheral.bonded:
            raise BluezError("AlreadyExists", "Already Exists")
        if peripheral.pairing == "none":
            raise BluezError("AuthenticationFailed", "Authentication Failed")
        if peripheral.pairing == "passkey":
            said = await self._passkey(client, device)
            if said != peripheral.passkey:
                raise BluezError("AuthenticationFailed", "Authentication Failed")
        peripheral.bonded = True

    async def _passkey(self, client: str, device: str) -> int:
        owner = client if client in self._agents else self._default
        path, capability = self._agents.get(owner or "", ("", ""))
        if owner is None or capability not in {"KeyboardOnly", "KeyboardDisplay"}:
            raise BluezError("AuthenticationFailed", "Authentication Failed")
        try:
            async with asyncio.timeout(ASK_S):
                reply = await self._ask(owner, path, AGENT, "RequestPasskey", "o", [device])
        except TimeoutError:
            raise BluezError("AuthenticationTimeout", "Authentication Timeout") from None
        if reply.message_type is MessageType.ERROR:
            raise BluezError("AuthenticationRejected", "Authentication Rejected")
        return int(reply.body[0])

    async def _register(self, message: Message) -> Answer | None:
        client = message.sender or ""
        if client in self._agents:
            raise BluezError("AlreadyExists", "Already Exists")
        self._agents[client] = (message.body[0], message.body[1])
        return None

    async def _unregister(self, message: Message) -> Answer | None:
        if (message.sender or "") not in self._agents:
            raise BluezError("DoesNotExist", "Does Not Exist")
        self.gone(message.sender or "")
        return None

    async def _request_default(self, message: Message) -> Answer | None:
        self._default = message.sender
        return None
