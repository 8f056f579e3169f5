"""A private message bus standing in for the system's: an own dbus-daemon on a socket in a temporary folder.

The folder's name says what it is, so that a gateway marks everything heard there as simulated. The simulated BlueZ
refuses any other bus.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.sensors.bluez_watch import SIMULATED_BUS

START_S = 10.0
CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow send_type="signal"/>
  </policy>
</busconfig>
"""


def require_simulated(address: str) -> None:
    """Raises ValueError for a bus that isn't one of ours, the system's above all."""
    if SIMULATED_BUS not in address:
        raise ValueError(f"{address}: not a simulated bus; a simulated BlueZ never goes on a real one")


@asynccontextmanager
async def private_bus() -> AsyncIterator[str]:
    """The address of a fresh bus. Raises OSError when there is no dbus-daemon or it doesn't start."""
    with tempfile.TemporaryDirectory(prefix=f"{SIMULATED_BUS}-") as folder:
        config = Path(folder) / "bus.conf"
        config.write_text(CONFIG.format(socket=Path(folder) / "bus"), encoding="utf-8")
        # Where there is setpriv, the bus ends with a simulator that is killed.
        with_us = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
        daemon = await asyncio.create_subprocess_exec(
            *with_us,
            *("dbus-daemon", f"--config-file={config}", "--nofork", "--nosyslog", "--print-address=1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert daemon.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                address = (await daemon.stdout.readline()).decode().strip()
            if not address:
                raise OSError("dbus-daemon did not start")
            yield address
        finally:
            if daemon.returncode is None:
                daemon.terminate()
            await daemon.wait()
            daemon._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - or its pipe outlives the loop
