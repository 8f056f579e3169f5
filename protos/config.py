"""The gateway's configuration document: TOML when written by hand, JSON when pushed, one type for both programs.

Unknown keys are refused. Times are seconds with `_s`, sizes carry their unit.
"""

from __future__ import annotations

import hashlib
import tomllib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from protos.strict import convert

Slug = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", title="slug: lower-case letters, digits and -")]
AssetPath = Annotated[str, Meta(pattern=r"^[a-z0-9-]+(/[a-z0-9-]+)*$", title="slug path, e.g. truck-17/box")]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Unit = Annotated[int, Meta(ge=0, le=255)]
ListenAddress = Annotated[
    str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):[0-9]{1,5}$", title="HOST:PORT, e.g. 127.0.0.1:8080")
]


class Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every section."""


class GatewaySection(Frozen, frozen=True, kw_only=True):
    name: str = ""
    """Free text shown to people."""
    asset: AssetPath | None = None
    """What this box is mounted on."""
    gpsd: Annotated[str, Meta(pattern=r"^$|^[^\s:]+:[0-9]{1,5}$", title="host:port, e.g. 127.0.0.1:2947")] = ""
    """Take the time from gpsd there, where nothing better is at hand. Empty: off. Taken at the daemon's start."""


Hours = Annotated[
    str,
    Meta(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$",
        title="from-to by UTC, e.g. 22:00-05:30",
    ),
]


class Via(Frozen, frozen=True, kw_only=True):
    """One way to the control plane. The first that works is taken; a better one again once it has proved itself."""

    id: Slug
    interface: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,15}$", title="a network interface, e.g. wwan0")] = ""
    """Go by this network interface; empty: as the box routes."""
    source: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]*$", title="an IP address of the box")] = ""
    """Go from this address of the box; empty: as the box routes."""
    policy: Literal["free", "metered", "roaming"] = "free"
    """metered: telemetry in batches of a minute or more; roaming: only what is urgent, telemetry is kept."""
    hours: tuple[Hours, ...] = ()
    """Telemetry only within these hours (UTC), e.g. "22:00-05:30"; empty: always."""
    daily_mb: Annotated[float, Meta(ge=0)] = 0.0
    """MB a day (UTC), both ways; from half of it on batches get larger, beyond it only what is urgent goes. 0: any."""


class UplinkSection(Frozen, frozen=True, kw_only=True):
    server: str = ""
    """host:port of the control plane's gRPC listener; empty: as told at enrolment."""
    batch_interval_s: PositiveSeconds = 10.0
    """Seal telemetry at least this often; the server's Pace wins while connected."""
    window: Annotated[int, Meta(ge=1, le=256)] = 16
    """Batches sent and not yet acknowledged."""
    ack_timeout_s: PositiveSeconds = 60.0
    """Without progress for this long at most the connection is given up; usually sooner, from 5 s on, as measured."""
    via: tuple[Via, ...] = ()
    """Ways to the control plane, the preferred one first; none: as the box routes, without a limit."""


class BufferSection(Frozen, frozen=True, kw_only=True):
    limit_mb: Annotated[float, Meta(ge=1)] = 1024.0
    """Everything the buffer keeps on disk, logs included; then telemetry is thinned, and only then dropped."""
    urgent_limit_mb: Annotated[float, Meta(gt=0)] = 64.0
    """Of these, what events, alarms and gap records may take; at the limit field events are refused."""
    sync_every_s: Annotated[float, Meta(ge=0.0, le=30.0)] = 2.0
    """What a power cut may cost; more than 10 needs power.fail_input."""
    seal_max_rows: Annotated[int, Meta(ge=1)] = 20_000
    """Seal telemetry at this many rows even before the interval."""
    seal_max_kb: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Seal telemetry at about this encoded size."""
    keep_acknowledged_h: Annotated[float, Meta(ge=0.0)] = 24.0
    """Keep acknowledged batches this long, while space allows, to re-offer them to a restored server."""


class PowerSection(Frozen, frozen=True, kw_only=True):
    """How the box hears that its power is failing, while a capacitor or battery still carries it."""

    fail_input: Annotated[str, Meta(pattern=r"^(|SIGPWR|/.+)$", title="a path from / on, or SIGPWR")] = ""
    """A FIFO or sysfs file that reads 1 then and 0 when it is back, or SIGPWR, which is heeded anyway; empty: none."""


class FieldSection(Frozen, frozen=True, kw_only=True):
    """The page that the box itself serves to whoever stands beside it."""

    enabled: bool = False
    """Serve it. It needs a PIN: comboio-gateway field set-pin."""
    listen: ListenAddress = "127.0.0.1:8080"
    """HOST:PORT; the address of the box in its own Wi-Fi opens the page to those in it."""
    pin_file: str = ""
    """Where set-pin put the hashed PIN; empty: field.pin in the data folder."""


class Calibration(Frozen, frozen=True, kw_only=True):
    """value × gain + offset, applied to the declared value, never to the stored integers."""

    gain: float = 1.0
    offset: float = 0.0


class Validation(Frozen, frozen=True, kw_only=True):
    """What a reading must look like to be called good. Values are never changed, only their quality."""

    min: float | None = None
    """Below it a reading is out of range."""
    max: float | None = None
    """Above it a reading is out of range."""
    max_rate_per_s: Annotated[float, Meta(gt=0)] | None = None
    """A faster change makes a reading uncertain."""
    stuck_s: PositiveSeconds | None = None
    """The very same value for so long is uncertain."""


class Report(Frozen, frozen=True, kw_only=True):
    """When a reading is worth sending. A row travels whole as soon as one of its quantities is due."""

    deadband: Annotated[float, Meta(ge=0)] = 0.0
    """A change beyond it is due, in the quantity's unit; 0: any change."""
    deadband_percent: Annotated[float, Meta(ge=0)] = 0.0
    """The same, of the value last sent; the larger of both counts."""
    min_s: Annotated[float, Meta(ge=0)] = 0.0
    """Never send more often than this for a change."""
    max_s: PositiveSeconds = 900.0
    """Send at least this often, changed or not."""


class Alarm(Frozen, frozen=True, kw_only=True):
    """Raised on the gateway itself, sent at once."""

    quantity: str
    above: float | None = None
    """Raise beyond this value,"""
    below: float | None = None
    """or under this one; one of the two."""
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0
    """Clear only when the value is back by this much."""
    for_s: Annotated[float, Meta(ge=0)] = 0.0
    """Only when it has lasted so long."""
    severity: Literal["info", "warning", "alarm"] = "alarm"
    name: str = ""
    """Tells the alarms of a sensor apart; made from quantity and limit if empty."""


class BusBase(Frozen, frozen=True, kw_only=True):
    """What every Modbus bus has."""

    id: Slug
    timeout_s: PositiveSeconds = 1.0
    """Longest wait for one answer; on a serial line from the end of the question to the begin of the answer."""
    pause_ms: Annotated[int, Meta(ge=0)] = 0
    """Silence between two requests."""
    best_effort: bool = False
    """Accept more than the bus can carry: polls that fall out are counted."""


class TcpBus(BusBase, frozen=True, kw_only=True, tag_field="kind", tag="tcp"):
    """Modbus TCP."""

    host: str
    port: Port = 502


class TlsBus(BusBase, frozen=True, kw_only=True, tag_field="kind", tag="tls"):
    """Modbus TCP inside TLS (Modbus/TCP Security)."""

    host: str
    port: Port = 802
    ca_file: str = ""
    """Certificates of the authority that signed the device's; empty: those this box trusts."""
    cert_file: str = ""
    """The certificate that this box shows; empty: the device asks for none."""
    key_file: str = ""
    """Its private key, a file of mode 0600; empty: in cert_file."""
    server_name: str = ""
    """The name in the device's certificate; empty: host."""


SerialPath = Annotated[str, Meta(pattern=r"^/.+$", title="a path, e.g. /dev/serial/by-id/usb-…")]
Baud = Annotated[int, Meta(ge=300, le=4_000_000)]


class SerialBus(BusBase, frozen=True, kw_only=True):
    """What both dialects of a serial line have."""

    port: SerialPath
    """The adapter by a path that stays its own, such as /dev/serial/by-id/usb-…; /dev/ttyUSB0 is whoever came first."""
    baud: Baud = 9600
    parity: Literal["even", "odd", "none"] = "even"
    """The standard's is even; most devices are delivered with none."""
    stop_bits: Literal[1, 2] = 1
    """The standard asks for 2 where there is no parity; most devices send 1."""


class RtuBus(SerialBus, frozen=True, kw_only=True, tag_field="kind", tag="rtu"):
    """Modbus RTU on a serial line."""


class AsciiBus(SerialBus, frozen=True, kw_only=True, tag_field="kind", tag="ascii"):
    """Modbus ASCII on a serial line."""

    data_bits: Literal[7, 8] = 7


class RtuOverTcpBus(BusBase, frozen=True, kw_only=True, tag_field="kind", tag="rtu_over_tcp"):
    """RTU frames through a TCP connection: a serial device server in front of a line."""

    host: str
    port: Port
    baud: Baud = 9600
    """Of the line behind it: so fast it can be read, and so long a late answer may last."""


Bus = TcpBus | TlsBus | RtuBus | AsciiBus | RtuOverTcpBus


class Broker(Frozen, frozen=True, kw_only=True):
    """An MQTT broker; sensors name it by its id."""

    id: Slug
    host: str
    port: Port = 1883
    username: str = ""
    """Empty: the broker asks for none."""
    password_file: str = ""
    """A file of mode 0600 with the password; secrets never stand in this document."""
    client_id: str = ""
    """The name the broker keeps our session under, unique among its clients; empty: from the gateway's name."""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """A broker silent for longer than this and a half is given up."""
    version: Literal["3.1.1", "5"] = "3.1.1"
    """Of MQTT."""
    session_h: Annotated[float, Meta(gt=0, le=100_000)] = 168.0
    """With MQTT 5: the broker keeps our session, and what is said meanwhile, so long after we are gone. With 3.1.1 the
    broker decides."""
    tls: bool = False
    """Speak TLS; the usual port for it is 8883."""
    ca_file: str = ""
    """Certificates of the authority that signed the broker's; empty: those this box trusts."""
    cert_file: str = ""
    """The certificate that this box shows; empty: the broker asks for none."""
    key_file: str = ""
    """Its private key, a file of mode 0600; empty: in cert_file."""
    server_name: str = ""
    """The name in the broker's certificate; empty: host."""


class BleSection(Frozen, frozen=True, kw_only=True):
    adapters: tuple[
        Annotated[
            str,
            Meta(pattern=r"^(hci[0-9]+|[0-9A-F]{2}(:[0-9A-F]{2}){5})$", title="an address, or hci and a number"),
        ],
        ...,
    ] = ()
    """Adapters that listen, each by its address, which stays when names change places, or by its name; empty: the first
    there is."""
    scan: Literal["auto", "active", "passive"] = "auto"
    """passive asks sensors for nothing and spares their batteries; auto: passive where BlueZ allows it, else active."""
    silent_s: Annotated[float, Meta(ge=5)] = 45.0
    """An adapter that heard no device at all for this long, and for three periods of the sensor that sends most often,
    is started anew."""
    power_cycle: bool = True
    """If that doesn't help, switch the adapter off and on; its connections end."""
    connections: Annotated[int, Meta(ge=1, le=20)] = 3
    """Peripherals that one adapter is connected to at a time; the others wait for their turn."""
    turn_s: Annotated[float, Meta(ge=1, le=300)] = 30.0
    """Longest time for connecting and reading; who stays connected gives way after it when another waits."""


class SensorBase(Frozen, frozen=True, kw_only=True):
    id: Slug
    asset: AssetPath | None = None
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """Per quantity."""
    attrs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per quantity: attributes that travel with the series, e.g. role = "cargo_temperature"."""
    required: bool = False
    """A pushed configuration that adds this sensor is undone if the sensor doesn't answer."""
    validate: dict[str, Validation] = field(default_factory=dict)
    """Per quantity."""
    report: dict[str, Report] = field(default_factory=dict)
    """Per quantity; "*" for those not named. Without: every reading is sent."""
    alarm: tuple[Alarm, ...] = ()
    priority: Literal["low", "normal", "high"] | None = None
    """What is thinned first when the buffer is full: low, then normal, then high. Left out: normal, and high for a
    sensor with cargo temperature (attribute role)."""


class ModbusSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="modbus"):
    bus: Slug
    unit: Unit = 1
    profile: str
    """vendor-model@version"""
    report_by_profile: bool = False
    """Send what the profile's report policies find worth sending; those in `report` go first."""
    every_s: PositiveSeconds = 1.0
    quantities: tuple[str, ...] = ()
    """Those of the profile's that are this sensor's; empty: all. Sensors of one bus, unit, profile and period are read
    together: a controller of four cold rooms is four sensors and one read."""
    rename: dict[str, Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$")]] = field(default_factory=dict)
    """The profile's quantity → what it is called here; the other settings use the new name."""
    allow_write: tuple[str, ...] = ()
    """Quantities that commands may write, of those that the profile calls writable; empty: none."""


class SimulatedSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="simulated"):
    every_s: PositiveSeconds = 1.0
    quantities: dict[str, str] = field(default_factory=lambda: {"temperature": "Cel"})
    """Quantity → UCUM unit."""
    signal: Literal["counting", "sine", "noise"] = "sine"


class BleSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="ble"):
    address: Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$", title="upper-case, e.g. D4:12:43:55:AA:01")]
    profile: str
    """vendor-model@version"""
    key_file: str = ""
    """A file of mode 0600 with the bind key, 32 hexadecimal digits; a sensor with a key must encrypt."""


class GattSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="gatt"):
    """A Bluetooth LE peripheral that is connected to."""

    address: Annotated[str, Meta(pattern=r"^[0-9A-F]{2}(:[0-9A-F]{2}){5}$", title="upper-case, e.g. D4:12:43:55:AA:01")]
    profile: str
    """vendor-model@version"""
    every_s: PositiveSeconds | None = None
    """Read this often; left out: as the profile says."""
    passkey_file: str = ""
    """A file of mode 0600 with the six digits on the device or in its manual, where the profile asks for pairing."""


Pointer = Annotated[str, Meta(pattern=r"^(/([^~/]|~[01])*)*$", title="JSON pointer, e.g. /battery/level")]


class JsonValue(Frozen, frozen=True, kw_only=True):
    """Where one quantity stands in a message."""

    path: Pointer = ""
    """JSON pointer; of a CSV line /0 is the first cell; empty: the whole payload."""
    topic_part: str = ""
    """Instead of path: the name of a {placeholder} of the topic."""
    unit: str = ""
    """UCUM code."""
    type: Literal["number", "boolean", "string"] = "number"
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """What the device resolves, so that 23.1 costs two bytes instead of eight; others travel as they are."""
    quoted: bool = False
    """The number stands in a text, e.g. "21.5"."""
    labels: dict[str, bool | int | float | str] = field(default_factory=dict)
    """What the device says, spelled as in its message, and the value it means, e.g. { ON = true, OFF = false }."""


class PayloadTime(Frozen, frozen=True, kw_only=True):
    """Where a message says when it was measured, by the device's own clock."""

    path: Pointer
    format: Literal["unix_s", "unix_ms", "unix_us", "iso8601"]
    utc_offset_min: Annotated[int, Meta(ge=-840, le=840)] | None = None
    """Of a written time that doesn't say its offset from UTC."""


class MqttSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="mqtt"):
    broker: Slug
    topic: Annotated[
        str, Meta(max_length=1024, pattern=r"^[^\x00]*$", title="a topic, + for any one level, # for any rest")
    ] = ""
    """Where its messages come; empty: as the profile says, with `device` filled in."""
    device: Annotated[str, Meta(max_length=200, pattern=r"^[^+#\x00{}]*$", title="levels of a topic, no + or #")] = ""
    """What the device is called in the topics of its profile."""
    profile: str | None = None
    """vendor-model@version; or describe the message by `values`."""
    values: dict[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", title="snake_case quantity")], JsonValue] = field(
        default_factory=dict
    )
    """Quantity → where it stands in the message."""
    format: Literal["json", "csv", "plain"] = "json"
    """Of the message that `values` describe."""
    each: Pointer | None = None
    """JSON pointer to an array of measurements, each a row of its own; of the message that `values` describe."""
    time: PayloadTime | None = None
    """Of the message that `values` describe: where it says when it was measured."""
    every_s: PositiveSeconds | None = None
    """A message is expected this often; left out: as the profile says, else every 60 s."""


class HostSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="host"):
    """The box itself."""

    profile: str = "linux-box@1"
    """linux-box@1 or linux-interface@1."""
    every_s: Annotated[float, Meta(ge=1)] = 10.0
    interface: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,15}$", title="a network interface, e.g. wwan0")] = ""
    """Of linux-interface: which one."""
    disk: Annotated[str, Meta(pattern=r"^(/.*)?$", title="a path, e.g. /var/lib")] = ""
    """Whose disk is told; empty: that of the data folder."""


class ModemSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="modem"):
    """A mobile modem, as ModemManager knows it."""

    profile: str = "modemmanager-modem@1"
    every_s: Annotated[float, Meta(ge=5)] = 30.0
    equipment: Annotated[str, Meta(pattern=r"^[0-9A-Za-z]{0,40}$", title="an IMEI")] = ""
    """IMEI of the modem; empty: the only one, or that of the lowest number."""


class GpsdSensor(SensorBase, frozen=True, kw_only=True, tag_field="driver", tag="gpsd"):
    """Where the box is, as gpsd knows it."""

    profile: str = "gpsd-receiver@1"
    address: Annotated[str, Meta(pattern=r"^[^\s:]+:[0-9]{1,5}$", title="host:port")] = "127.0.0.1:2947"
    every_s: Annotated[float, Meta(ge=0.1)] = 1.0
    """Take a fix this often, of those that come."""
    device: str = ""
    """Path of the receiver where gpsd has several, e.g. /dev/ttyACM0; empty: any."""


Sensor = ModbusSensor | SimulatedSensor | BleSensor | GattSensor | MqttSensor | HostSensor | ModemSensor | GpsdSensor


class GatewayConfig(Frozen, frozen=True, kw_only=True):
    """The whole document."""

    config_version: Literal[1]
    management: Literal["local", "managed"] = "local"
    gateway: GatewaySection = GatewaySection()
    uplink: UplinkSection = UplinkSection()
    buffer: BufferSection = BufferSection()
    power: PowerSection = PowerSection()
    field: FieldSection = FieldSection()
    bus: tuple[Bus, ...] = ()
    broker: tuple[Broker, ...] = ()
    ble: BleSection = BleSection()
    sensor: tuple[Sensor, ...] = ()


def canonical(config: GatewayConfig) -> bytes:
    """The document as JSON bytes: keys sorted, and what equals its default left out.

    Two documents that mean the same have the same bytes, however they were written; `from_json` reads them back.
    """
    return msgspec.json.encode(_plain(config), order="sorted")


def digest(document: bytes) -> bytes:
    """SHA-256 of canonical bytes: a revision's name."""
    return hashlib.sha256(document).digest()


def from_json(document: bytes) -> GatewayConfig:
    """Read a pushed document. Raises msgspec.DecodeError or `protos.strict.DocumentError`."""
    return convert(msgspec.json.decode(document), GatewayConfig)


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        tag_field, tag = value.__struct_config__.tag_field, value.__struct_config__.tag
        parts = {} if tag_field is None else {tag_field: tag}
        for part in msgspec.structs.fields(value):
            held = getattr(value, part.name)
            if part.required or held != _default(part):
                parts[part.encode_name] = _plain(held)
        return parts
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _default(part: msgspec.structs.FieldInfo) -> Any:
    return part.default_factory() if part.default_factory is not msgspec.NODEFAULT else part.default


def from_toml(text: str) -> GatewayConfig:
    """Parse and check a hand-written document.

    Raises tomllib.TOMLDecodeError (with line and column) or `protos.strict.DocumentError`.
    """
    return convert(tomllib.loads(text), GatewayConfig)
