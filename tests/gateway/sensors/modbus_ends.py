"""A simulated device and a link to it, for each kind of bus there is."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.sensors.modbus_link import ModbusLink
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.signals import Signal
from protos import config
from tests.gateway.sensors.rig import COUNTER, device

KINDS = ("tcp", "tls", "rtu", "ascii", "rtu_over_tcp")
SERIAL = ("rtu", "ascii", "rtu_over_tcp")
FAST = 115_200
"""Of a pseudo terminal, which has no speed: how long the longest late answer may last."""


@dataclass(frozen=True, slots=True)
class Keys:
    """An authority and what it signed for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path

    def server(self, *, ask_for_ours: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if ask_for_ours:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def keys(folder: Path, name: str = "127.0.0.1") -> Keys:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plc")])
    alt: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([alt]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "plc.crt", folder / "plc.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Keys(cert_file, cert_file, key_file)


@dataclass(slots=True)
class Ends:
    """Both ends of one bus."""

    device: ModbusDevice
    options: config.Bus
    link: ModbusLink


@asynccontextmanager
async def bus(
    kind: str,
    folder: Path,
    *,
    units: Sequence[int] = (1,),
    profile: str = COUNTER,
    signals: Mapping[str, Signal] | None = None,
    timeout_s: float = 0.25,
    baud: int = FAST,
    echo: bool = False,
    log: Path | None = None,
) -> AsyncIterator[Ends]:
    simulated = device(units=units, profile=profile, signals=signals, log=log)
    options = await _started(simulated, kind, folder, timeout_s=timeout_s, baud=baud, echo=echo)
    link = ModbusLink(options=options)
    try:
        yield Ends(simulated, options, link)
    finally:
        link.close()
        await simulated.close()
        simulated._log.close()


async def _started(
    simulated: ModbusDevice, kind: str, folder: Path, *, timeout_s: float, baud: int, echo: bool
) -> config.Bus:
    if kind == "tcp":
        return config.TcpBus(id="b", host="127.0.0.1", port=await simulated.start(), timeout_s=timeout_s)
    if kind == "tls":
        made = keys(folder)
        port = await simulated.start(kind="tls", tls=made.server())
        return config.TlsBus(id="b", host="127.0.0.1", port=port, ca_file=str(made.ca), timeout_s=timeout_s)
    if kind == "rtu_over_tcp":
        port = await simulated.start(kind=kind)
        return config.RtuOverTcpBus(id="b", host="127.0.0.1", port=port, baud=baud, timeout_s=timeout_s)
    path = simulated.start_serial(link=folder / "adapter", kind=kind, echo=echo)
    settings = {"id": "b", "port": path, "baud": baud, "parity": "none", "timeout_s": timeout_s}  # all that a pty takes
    return config.RtuBus(**settings) if kind == "rtu" else config.AsciiBus(data_bits=8, **settings)  # type: ignore[arg-type]
