"""sd_notify(3): one datagram to the socket systemd names; nothing without one."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send e.g. READY=1. A missing or vanished socket is no error: the daemon also runs without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto(state.encode(), address)
