"""A private Mosquitto on a free loopback port, where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

from control_plane.simulators.processes import Child, Family, StartError

START_WITHIN_S = 10.0


def program(name: str) -> str | None:
    """Where a server program is installed; Debian keeps some outside a user's path."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def free_port() -> int:
    """One that nobody on the loopback address has at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found: int = free.getsockname()[1]
    return found


def start(family: Family, folder: Path) -> tuple[Child, int]:
    """(its process, its port). Raises StartError."""
    found = program("mosquitto")
    if found is None:
        raise StartError("mosquitto is not installed")
    port = free_port()
    config = folder / "mosquitto.conf"
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false"]
    lines += ["user nobody"] if os.geteuid() == 0 else []
    config.write_text("\n".join(lines) + "\n")
    child = family.program("mosquitto", found, "-c", str(config))
    child.begin()
    end = time.monotonic() + START_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return child, port
        except OSError:
            if not child.alive or time.monotonic() > end:
                raise StartError(f"mosquitto did not start\n{child.last_words()}") from None
            time.sleep(0.02)
