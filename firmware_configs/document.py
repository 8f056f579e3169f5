"""What the types of a configuration document can't say: names that must be unique or exist, and what fits a sensor.

Both programs ask here: the control plane before it saves, the gateway before it applies. What needs the box itself
(files of keys and passwords, adapters, devices) only the gateway can tell.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from firmware_configs.check import of_message
from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.messages import DEVICE, Message, MessageTime, MessageValue, MqttProfile, problem_of_filter
from firmware_configs.schema import ModbusProfile, Register
from protos.config import (
    AsciiBus,
    BleSensor,
    GatewayConfig,
    GattSensor,
    HostSensor,
    ModbusSensor,
    MqttSensor,
    RtuBus,
    RtuOverTcpBus,
    Sensor,
    SimulatedSensor,
    TlsBus,
)

TEXT, SWITCH, COUNTER, NUMBER = "a text", "a switch", "an unsigned 64-bit counter", "a number"
KINDS = {"string": TEXT, "boolean": SWITCH, "bool": SWITCH}
EVERYTHING_ELSE = "*"
UNWARNED_SYNC_S = 10.0
"""What may be lost where nothing tells that the power fails."""


def disagreements(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    """One sentence per mistake, each starting with its path, e.g. `sensor[2].bus: there is no bus …`."""
    unique = (
        ("uplink.via", [v.id for v in config.uplink.via]),
        ("bus", [b.id for b in config.bus]),
        ("broker", [b.id for b in config.broker]),
        ("sensor", [s.id for s in config.sensor]),
    )
    for kind, ids in unique:
        for name, times in Counter(ids).items():
            if times > 1:
                yield f"{kind}: {times} of them have the id {name!r}"
    yield from _serial_ports(config)
    for index, via in enumerate(config.uplink.via):
        if via.source and not _is_address(via.source):
            yield f"uplink.via[{index}].source: {via.source!r} is not an IP address"
    if config.buffer.sync_every_s > UNWARNED_SYNC_S and not config.power.fail_input:
        yield f"buffer.sync_every_s: more than {UNWARNED_SYNC_S:g} s needs power.fail_input; a power cut costs as much"
    if config.ble.scan == "passive" and any(isinstance(sensor, GattSensor) for sensor in config.sensor):
        yield "ble.scan: passive does not tell whether a peripheral to connect to is still near; leave it at auto"
    yield from _held_alone(config, profiles)
    for index, sensor in enumerate(config.sensor):
        for problem in (*_references(sensor, config), *_sections(sensor, profiles)):
            yield f"sensor[{index}].{problem}"


def _serial_ports(config: GatewayConfig) -> Iterator[str]:
    """A line has one master."""
    taken: dict[str, str] = {}
    for index, bus in enumerate(config.bus):
        if isinstance(bus, RtuBus | AsciiBus):
            if bus.port in taken:
                yield f"bus[{index}].port: {bus.port} is the port of bus {taken[bus.port]!r} already"
            taken.setdefault(bus.port, bus.id)
        if isinstance(bus, TlsBus) and bus.key_file and not bus.cert_file:
            yield f"bus[{index}].key_file: needs the certificate that belongs to it, cert_file"
    for index, broker in enumerate(config.broker):
        if broker.key_file and not broker.cert_file:
            yield f"broker[{index}].key_file: needs the certificate that belongs to it, cert_file"
        if not broker.tls and (broker.ca_file or broker.cert_file or broker.server_name):
            yield f"broker[{index}].tls: is off, although a file or name for it is given"


def _held_alone(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    """A peripheral has one connection: sensors may share it in turn, but not with one that keeps it."""
    of: dict[str, list[tuple[int, GattSensor]]] = {}
    for index, sensor in enumerate(config.sensor):
        if isinstance(sensor, GattSensor):
            of.setdefault(sensor.address, []).append((index, sensor))
    for some in of.values():
        if len(some) == 1:
            continue
        for index, sensor in some:
            try:
                keeps = profiles.gatt(sensor.profile).keep_connected
            except ProfileError:
                continue  # told elsewhere
            if keeps:
                others = ", ".join(one.id for _, one in some if one is not sensor)
                yield (
                    f"sensor[{index}].profile: {sensor.profile} stays connected, so that {others} of the same address "
                    f"can't be read; put all of it into one profile"
                )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _references(sensor: Sensor, config: GatewayConfig) -> Iterator[str]:
    if isinstance(sensor, ModbusSensor) and sensor.bus not in (buses := [bus.id for bus in config.bus]):
        yield f"bus: there is no bus {sensor.bus!r}{_near(sensor.bus, buses)}"
    if isinstance(sensor, ModbusSensor) and sensor.unit == 0:
        lines = [bus.id for bus in config.bus if isinstance(bus, RtuBus | AsciiBus | RtuOverTcpBus)]
        if sensor.bus in lines:
            yield "unit: 0 speaks to every unit of a serial line, and none answers"
    if isinstance(sensor, MqttSensor) and sensor.broker not in (brokers := [one.id for one in config.broker]):
        yield f"broker: there is no broker {sensor.broker!r}{_near(sensor.broker, brokers)}"


def _sections(sensor: Sensor, profiles: Profiles) -> Iterator[str]:
    if isinstance(sensor, SimulatedSensor) and not sensor.quantities:
        yield "quantities: is empty; name at least one"
        return
    if isinstance(sensor, MqttSensor):
        if (sensor.profile is None) == (not sensor.values):
            yield "profile: give either a profile, or values for each quantity of its messages"
            return
        yield from of_values(sensor)
        yield from of_topics(sensor, profiles)
    if isinstance(sensor, HostSensor) and sensor.profile.startswith("linux-interface@") and not sensor.interface:
        yield "interface: is needed: which network interface, e.g. wwan0"
    try:
        known = quantities(sensor, profiles)
        if isinstance(sensor, ModbusSensor):
            yield from _not_of_the_profile(sensor, profiles.modbus(sensor.profile))
    except ProfileError as error:
        yield f"profile: {error}"
        return
    yield from _strangers(sensor, known)
    yield from _misfits(sensor, known)


def quantities(sensor: Sensor, profiles: Profiles) -> Mapping[str, str]:
    """What a sensor delivers: quantity → what it is, in words. Raises ProfileError."""
    if isinstance(sensor, SimulatedSensor):
        return dict.fromkeys(sensor.quantities, NUMBER)
    if isinstance(sensor, ModbusSensor):
        return _of_modbus(sensor, profiles.modbus(sensor.profile))
    if isinstance(sensor, MqttSensor) and sensor.profile is None:
        return {quantity: KINDS.get(value.type, NUMBER) for quantity, value in sensor.values.items()}
    if isinstance(sensor, MqttSensor):
        return {one.quantity: KINDS.get(one.type, NUMBER) for one in profiles.mqtt(sensor.profile or "").values()}
    if isinstance(sensor, GattSensor):
        return {one.quantity: KINDS.get(one.type, NUMBER) for one in profiles.gatt(sensor.profile).value}
    if not isinstance(sensor, BleSensor):
        return {one.quantity: KINDS.get(one.type, NUMBER) for one in profiles.host(sensor.profile).value}
    profile = profiles.ble(sensor.profile)
    kinds = {one.quantity: KINDS.get(one.type, NUMBER) for one in profile.value}
    return {quantity: kinds.get(quantity, NUMBER) for quantity in profile.quantities()}


def of_values(sensor: MqttSensor) -> Iterator[str]:
    """Mistakes of the values of one sensor."""
    for quantity, value in sensor.values.items():
        if value.type != "number" and value.decimals is not None:
            yield f"values.{quantity}.decimals: a {value.type} has no decimals"


def of_topics(sensor: MqttSensor, profiles: Profiles) -> Iterator[str]:
    """Whether it is clear which topics a sensor's messages come on, and what they look like."""
    if sensor.topic and (problem := problem_of_filter(sensor.topic)):
        yield f"topic: {problem}"
    if sensor.profile is None:
        if not sensor.topic:
            yield "topic: is needed: where its messages come"
        yield from of_message(described(sensor))
        return
    for name in ("each", "time"):
        if getattr(sensor, name) is not None:
            yield f"{name}: belongs to values; the profile says its own"
    try:
        yield from _of_profile_topics(sensor, profiles.mqtt(sensor.profile))
    except ProfileError:
        return  # told with the profile


def _of_profile_topics(sensor: MqttSensor, profile: MqttProfile) -> Iterator[str]:
    topics = [message.topic for message in profile.messages()]
    if sensor.topic and len(topics) > 1:
        yield f"topic: {profile.name} has {len(topics)} topics; give device, which is filled in"
    if not sensor.topic and not all(topics):
        yield f"topic: is needed: {profile.name} says none"
    if not sensor.topic and not sensor.device and any(f"{{{DEVICE}}}" in topic for topic in topics):
        yield f"device: is needed: what stands for {{device}} in {topics[0]}"


def described(sensor: MqttSensor) -> Message:
    """The values of a document as a profile would have them."""
    time = sensor.time
    return Message(
        topic=sensor.topic,
        format=sensor.format,
        each=sensor.each,
        time=None
        if time is None
        else MessageTime(path=time.path, format=time.format, utc_offset_min=time.utc_offset_min),
        value=tuple(
            MessageValue(
                quantity=quantity,
                path=value.path,
                topic_part=value.topic_part,
                type=value.type,
                unit=value.unit,
                decimals=value.decimals,
                quoted=value.quoted,
                labels=value.labels,
                source="configuration",
            )
            for quantity, value in sensor.values.items()
        ),
    )


def _not_of_the_profile(sensor: ModbusSensor, profile: ModbusProfile) -> Iterator[str]:
    known = profile.quantities()
    for index, quantity in enumerate(sensor.quantities):
        if quantity not in known:
            yield f"quantities[{index}]: {quantity!r} is no quantity of {profile.name}{_near(quantity, known)}"
    for quantity, name in sensor.rename.items():
        if quantity not in known:
            yield f"rename.{quantity}: is no quantity of {profile.name}{_near(quantity, known)}"
        elif name != quantity and name in known and name not in sensor.rename:
            yield f"rename.{quantity}: {name!r} is another quantity of {profile.name}"
    for name, times in Counter(sensor.rename.values()).items():
        if times > 1:
            yield f"rename: {times} quantities become {name!r}"
    yield from _not_writable(sensor, profile)


def _not_writable(sensor: ModbusSensor, profile: ModbusProfile) -> Iterator[str]:
    known = _of_modbus(sensor, profile)
    writable = {sensor.rename.get(one.quantity, one.quantity) for one in profile.expanded() if one.writable}
    for index, quantity in enumerate(sensor.allow_write):
        path = f"allow_write[{index}]: {quantity!r}"
        if quantity not in known:
            yield f"{path} is no quantity of this sensor{_near(quantity, known)}"
        elif quantity not in writable:
            yield f"{path} can't be written; {profile.name} lets {', '.join(sorted(writable)) or 'nothing'} be written"
        elif quantity in sensor.calibration:
            yield f"{path} is calibrated here: what is written would not be what is read"


def _of_modbus(sensor: ModbusSensor, profile: ModbusProfile) -> Mapping[str, str]:
    kinds = {one.quantity: _of_register(one) for one in profile.expanded()} | {
        one.quantity: NUMBER for one in profile.derived
    }
    wanted = [quantity for quantity in kinds if not sensor.quantities or quantity in sensor.quantities]
    return {sensor.rename.get(quantity, quantity): kinds[quantity] for quantity in wanted}


def _of_register(one: Register) -> str:
    if one.type == "u64" and one.scale is None and not one.offset and not one.decimals:
        return COUNTER
    return KINDS.get(one.type, NUMBER)


def _strangers(sensor: Sensor, known: Mapping[str, str]) -> Iterator[str]:
    """Settings of quantities that the sensor does not have."""
    named: dict[str, list[str]] = {
        section: list(getattr(sensor, section)) for section in ("calibration", "attrs", "validate", "report")
    }
    named["alarm"] = [rule.quantity for rule in sensor.alarm]
    whose = "values" if isinstance(sensor, MqttSensor) and sensor.profile is None else _profile_of(sensor)
    for section, some in named.items():
        for quantity in some:
            if quantity not in known and (section, quantity) != ("report", EVERYTHING_ELSE):
                yield f"{section}.{quantity}: not a quantity of {whose}{_near(quantity, known)}"


def _profile_of(sensor: Sensor) -> str:
    return str(getattr(sensor, "profile", None) or "this sensor")


def _misfits(sensor: Sensor, known: Mapping[str, str]) -> Iterator[str]:
    """Settings that make no sense for what a quantity is."""
    for quantity, one in sensor.calibration.items():
        if known.get(quantity, NUMBER) != NUMBER and (one.gain, one.offset) != (1.0, 0.0):
            yield f"calibration.{quantity}: {known[quantity]} can't be calibrated"
    for rule in sensor.alarm:
        if (rule.above is None) == (rule.below is None):
            yield f"alarm.{rule.quantity}: give either above or below"
        elif known.get(rule.quantity) == TEXT:
            yield f"alarm.{rule.quantity}: is a text; alarms are for numbers and switches"


def _near(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
