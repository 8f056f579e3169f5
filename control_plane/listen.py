"""Ports that stay ours while the processes behind them come and go."""

from __future__ import annotations

import os
import socket

from control_plane.errors import Misconfigured
from control_plane.settings import Address

BACKLOG = 512


def listening(setting: str, address: Address) -> socket.socket:
    """A listening socket to be handed to children; connections wait in it while a child restarts."""
    opened = _socket(address)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(opened, setting, address)
    opened.listen(BACKLOG)
    return opened


def reserved(setting: str, address: Address) -> socket.socket:
    """Holds a port for a server that binds it itself with SO_REUSEPORT, as gRPC does.

    Bound and never listening: the kernel gives it no connection. SO_REUSEPORT would also share the port with a
    stranger of the same user, so an ordinary bind must succeed first.
    """
    with _socket(address) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(probe, setting, address)
        chosen = Address(address.host, probe.getsockname()[1])
    holder = _socket(chosen)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind(holder, setting, chosen)
    return holder


def bound(address: Address, opened: socket.socket) -> Address:
    """`address` with the port that was chosen."""
    return Address(address.host, opened.getsockname()[1])


def _socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM)


def _bind(opened: socket.socket, setting: str, address: Address) -> None:
    try:
        opened.bind((address.host, address.port))
    except OSError as error:
        opened.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Misconfigured(f"--{setting} {address}: {reason}") from None
