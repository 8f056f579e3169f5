"""A simulated gateway's own page, as a technician would switch it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from control_plane.simulators.broker import free_port


def switched_on(home: Path, pin: str) -> dict[str, Any]:
    """Set the PIN of the gateway in that folder; returns the [field] section that serves its page on this machine."""
    command = [sys.executable, "-m", "gateway", "field", "set-pin", "--stdin", "--data-dir", str(home)]
    subprocess.run(command, input=f"{pin}\n", text=True, check=True, capture_output=True)
    return {"enabled": True, "listen": f"127.0.0.1:{free_port()}"}
