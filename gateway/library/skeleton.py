"""`profiles new`: a first profile to fill in, with what every line is for."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from firmware_configs.adverts import BleProfile
from firmware_configs.messages import MqttProfile
from firmware_configs.schema import ModbusProfile
from firmware_configs.schemas import written
from gateway.errors import Misconfigured

MQTT = """\
# A profile: which topics a device publishes to and what stands there, by public documents. It is data, no program.
# Check it while you write:  comboio-gateway profiles check {file}
# Record what it publishes:  comboio-gateway capture --broker ID --profile {name} --device NAME --profiles DIR
vendor = "{vendor}"
model = "{model}"
version = 1                   # raise it when a value changes its meaning
description = "{vendor} {model}: what it is, in one line"
period_s = 300.0              # a message comes at least about this often; after three of them it is called silent

# Every value names one of these, and where in it.
[[sources]]
id = "docs"
title = "Title and version of the maker's document"
url = "https://"

# Where the broker tells whether the device is there (its last will). Told as a state, never as a reading.
# [availability]
# topic = "{{device}}/status"
# online = "online"
# offline = "offline"

# One per topic. {{device}} is what the sensor's configuration says; any other {{name}} is one level of any text.
[[message]]
topic = "{{device}}/state"
# format = "json"             # or plain: the payload is the value; csv: cells /0, /1 ... of a line
# each = "/data"              # an array of measurements, each a row of its own
# time = {{ path = "/ts", format = "unix_s" }}    # when the device says that it measured; unix_ms unix_us iso8601

[[message.value]]
quantity = "temperature"      # snake_case; what it measures, not what the maker calls it
path = "/temperature"         # JSON pointer, RFC 6901
decimals = 1                  # what the device resolves; or scale and offset
unit = "Cel"                  # UCUM: V A W kW.h Hz % Cel kPa ...
# sentinels = [-999]          # values that mean "not available"
# quoted = true               # the number stands in a text
# type = "boolean"            # or string
# labels = {{ ON = true, OFF = false }}
source = "docs, section 2"
"""
TEXT = """\
# A profile: what a device's registers mean, by public documents. It is data; nothing here is a program.
# Check it while you write:  comboio-gateway profiles check {file}
# Try it without the device: comboio-gateway simulate modbus --profile {name} --profiles DIR
vendor = "{vendor}"
model = "{model}"
version = 1                   # raise it when a register changes its meaning
description = "{vendor} {model}: what it is, in one line"
# word_order = "little"       # if the device sends the least significant register of a value first

# Every register names one of these, and where in it: table, page or section.
[[sources]]
id = "manual"
title = "Title and version of the maker's document"
url = "https://"

# What one request may ask. Without it: 125 registers, and no hole is read over.
# [limits]
# max_registers = 60
# max_gap = 10

# One per quantity. `address` is what goes over the wire, from 0: documents that count from 1 or write 30001 or 40001
# mean one less. Try both when in doubt; the values tell.
[[register]]
quantity = "temperature"      # snake_case; what it measures, not what the maker calls it
function = "holding"          # holding (03), input (04), coil (01), discrete (02)
address = 0
type = "i16"                  # u16 i16 u32 i32 u64 i64 f32 f64 bool string ...
decimals = 1                  # 215 means 21.5; or `scale`, `offset` where no power of ten says it
unit = "Cel"                  # UCUM: V A W kW.h Hz % Cel kPa ...
# sentinels = [0x8000]        # raw values that mean "not available"
# labels = {{0 = "off", 1 = "on"}}
# identifying = true          # a serial number: recordings blank it
source = "manual, table 1, page 2"

# Which changes are worth sending, for sensors that say `report_by_profile = true`.
[report]
"*" = {{max_s = 900}}
temperature = {{deadband = 0.2, max_s = 300}}
"""


TAG = """\
# A profile: what a tag's advertisements mean, by public documents. It is data; nothing here is a program.
# Check it while you write: comboio-gateway profiles check {file}
vendor = "{vendor}"
model = "{model}"
version = 1                   # raise it when a value changes its meaning
description = "{vendor} {model}: what it is, in one line"
format = "layout"             # or a format that has a decoder, e.g. bthome-v2: then field instead of place below
period_s = 10.0               # a new measurement about this often
# scan_response = true        # if it answers with its measurement only when asked (then only an active scan hears it)

# Every value names one of these, and where in it: table, page or section.
[[sources]]
id = "manual"
title = "Title and version of the maker's document"
url = "https://"

# Which payload it is. A scanner app shows it: "manufacturer data 0x0499: 05 12 FC ..." is company and bytes.
[layout]
company = 0x0000              # or service = "181a", for service data
# length = [18]               # bytes behind the company number or the UUID
# match = [{{ at = 0, bytes = "01" }}, {{ at = 1, bytes = "b7", mask = "b7" }}]   # constants that tell it from others
# counter = {{ at = 16, type = "u8" }}   # raised with each measurement
# address_at = 18             # its own address is inside

# One per quantity. `at` counts bytes from 0, behind the company number or the UUID.
[[value]]
quantity = "temperature"      # snake_case; what it measures
place = {{ at = 2, type = "i16", order = "little" }}   # u8 i8 u16 i16 u24 i24 u32 i32 f32 hex; a part: bit, bits
decimals = 2                  # 2215 means 22.15; or `scale`, `offset` where no power of ten says it
unit = "Cel"                  # UCUM: V A % Cel kPa dB{{mW}} ...
# sentinels = [-32768]        # raw values that mean "not available"
source = "manual, table 1, page 2"
"""
TEXTS: dict[str, tuple[str, type[Struct]]] = {
    "modbus": (TEXT, ModbusProfile),
    "ble": (TAG, BleProfile),
    "mqtt": (MQTT, MqttProfile),
}
"""By kind of profile."""


def write(folder: Path, vendor: str, model: str, *, kind: str = "modbus") -> Path:
    """A new file in `folder` to be filled in. Raises Misconfigured rather than write over one."""
    path = folder / f"{vendor}-{model}.toml"
    text = TEXTS[kind][0].format(vendor=vendor, model=model, name=f"{vendor}-{model}@1", file=path)
    return put(path, text, kind=kind)


def put(path: Path, text: str, *, kind: str = "modbus") -> Path:
    """A new profile, and beside it the schema that its first line names, so that editors know it.

    Raises Misconfigured rather than write over a profile.
    """
    folder = path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    below, beside = folder.name == kind, f"{kind}.schema.json"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"#:schema {'../' if below else ''}{beside}\n{text}")
    except FileExistsError:
        raise Misconfigured(f"{path}: is there already; nothing was written") from None
    schema = (folder.parent if below else folder) / beside
    if not schema.exists():
        schema.write_text(written(TEXTS[kind][1]), encoding="utf-8")
    return path
