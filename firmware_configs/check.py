"""What types can't say about a profile: names unique, addresses inside the table, every source known."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

from firmware_configs.adverts import AdvertValue, BleProfile
from firmware_configs.host import FACTS, HostProfile, HostValue
from firmware_configs.messages import (
    DEVICE,
    Message,
    MessageValue,
    MqttProfile,
    filled,
    placeholders,
    problem_of_filter,
)
from firmware_configs.schema import BITS, FLOATS, MOMENTS, Derived, ModbusProfile, Register


def problems(profile: ModbusProfile) -> list[str]:
    """One sentence per mistake, each starting with its path."""
    if any(block.type == "string" for block in profile.block):
        return ["block: strings can't be repeated; list them as [[register]]"]
    registers = profile.expanded()
    if not registers:
        return ["register: the profile has none"]
    known = {source.id for source in profile.sources}
    found = [
        f"limits.forbidden: {span.first} to {span.last} ends before it begins"
        for span in profile.limits.forbidden
        if span.last < span.first
    ]
    seen: set[str] = set()
    kinds = {register.quantity: register.type for register in registers}
    for register in registers:
        path = f"register {register.quantity}"
        if register.quantity in seen:
            found.append(f"{path}: is listed twice")
        seen.add(register.quantity)
        found += [f"{path}: {text}" for text in _of_register(register, profile, known)]
        if register.scale_from is not None and kinds.get(register.scale_from) not in {"i16", "u16", "i32"}:
            found.append(f"{path}: scale_from names {register.scale_from!r}, which is no integer of this profile")
    for derived in profile.derived:
        path = f"derived {derived.quantity}"
        if derived.quantity in seen:
            found.append(f"{path}: is listed twice")
        seen.add(derived.quantity)
        found += [f"{path}: {text}" for text in _of_derived(derived, kinds, known)]
    found += [
        f"report.{quantity}: is no quantity of this profile{near(quantity, seen)}"
        for quantity in profile.report
        if quantity != "*" and quantity not in seen
    ]
    return found


def problems_of_values(profile: BleProfile | MqttProfile | HostProfile) -> list[str]:
    """The same for profiles of advertisements, of messages and of the box itself."""
    known = {source.id for source in profile.sources}
    reserved = {"rssi"} if isinstance(profile, BleProfile) else set()
    found: list[str] = list(_of_messages(profile)) if isinstance(profile, MqttProfile) else []
    seen: set[str] = set()
    for value in profile.values() if isinstance(profile, MqttProfile) else profile.value:
        path = f"value {value.quantity}"
        if value.quantity in seen:
            found.append(f"{path}: is listed twice")
        if value.quantity in reserved:
            found.append(f"{path}: is measured by the radio and added to every sensor")
        seen.add(value.quantity)
        found += [f"{path}: {text}" for text in _of_value(value, known)]
        if (
            isinstance(value, HostValue)
            and isinstance(profile, HostProfile)
            and value.fact not in FACTS[profile.teller]
        ):
            hint = near(value.fact, FACTS[profile.teller])
            found.append(f"{path}: {profile.teller} tells no {value.fact!r}{hint}")
    return found


def _of_messages(profile: MqttProfile) -> Iterator[str]:
    if not profile.messages():
        yield "value: the profile has none; list [[value]], or [[message]] with the values of each topic"
    if profile.value and profile.message:
        yield "value: belongs to a [[message]] where there are any"
    topics = [message.topic for message in profile.messages()]
    for index, message in enumerate(profile.messages()):
        path = f"message[{index}]." if profile.message else ""
        for problem in of_message(message):
            yield f"{path}{problem}"
        if len(topics) > 1 and not message.topic:
            yield f"{path}topic: is needed where there are several"
        if topics.count(message.topic) > 1:
            yield f"{path}topic: another message has it too"


def of_message(message: Message) -> Iterator[str]:
    """The mistakes of one message, also of one that a configuration describes."""
    problem = problem_of_filter(filled(message.topic, DEVICE))
    if problem:
        yield f"topic: {problem}"
    known = set(placeholders(message.topic)) - {DEVICE}
    for value in message.value:
        if value.topic_part and value.topic_part not in known:
            yield f"value {value.quantity}: topic_part {value.topic_part!r} is no placeholder of {message.topic!r}"
        if value.topic_part and value.path:
            yield f"value {value.quantity}: either path or topic_part"
        if message.format == "plain" and value.path:
            yield f"value {value.quantity}: a plain payload is one value and has no path"
        for problem in _of_labels(value):
            yield f"value {value.quantity}: {problem}"
    if message.format == "plain" and (message.each is not None or message.time is not None):
        yield "format: a plain payload has no rows and no time; use json or csv"
    if message.time is not None and message.time.format != "iso8601" and message.time.utc_offset_min is not None:
        yield "time.utc_offset_min: only a written time can lack its offset"


def near(word: str, known: Collection[str]) -> str:
    """A suggestion to end a sentence with, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _of_value(value: AdvertValue | MessageValue | HostValue, known: set[str]) -> Iterator[str]:
    if value.source.split(" ")[0].rstrip(",:") not in known:
        yield f"source {value.source!r} doesn't begin with one of {', '.join(sorted(known))}"
    scaled = not isinstance(value, HostValue) and (value.scale is not None or value.offset != 0.0)
    if value.type != "number" and (scaled or value.decimals is not None):
        yield f"a {value.type} has no scale and no decimals"
    if scaled and value.decimals is not None:
        yield "either decimals, or scale and offset"
    if not isinstance(value, HostValue) and value.scale == 0.0:
        yield "scale can't be 0"


def _of_labels(value: MessageValue) -> Iterator[str]:
    kinds = {"number": (int, float), "boolean": (bool,), "string": (str,)}[value.type]
    for said, meant in value.labels.items():
        if not isinstance(meant, kinds) or (isinstance(meant, bool) and value.type == "number"):
            yield f"labels.{said}: {meant!r} is no {value.type}"
    if value.quoted and value.type != "number":
        yield "quoted is for numbers"


def _of_derived(derived: Derived, kinds: Mapping[str, str], known: set[str]) -> Iterator[str]:
    if derived.source.split(" ")[0].rstrip(",:") not in known:
        yield f"source {derived.source!r} doesn't begin with one of {', '.join(sorted(known))}"
    for term in derived.terms:
        kind = kinds.get(term.of)
        if kind is None:
            yield f"{term.of} is no register of this profile"
        elif kind == "string" or kind in MOMENTS:
            yield f"{term.of} is a {kind}; only numbers can be added"


def _of_register(register: Register, profile: ModbusProfile, known: set[str]) -> Iterator[str]:
    if register.source.split(" ")[0].rstrip(",:") not in known:
        yield f"source {register.source!r} doesn't begin with one of {', '.join(sorted(known))}"
    if register.address + register.width > 65536:
        yield "reaches past address 65535"
    for span in profile.limits.forbidden:
        beside = span.last < register.address or span.first >= register.address + register.width
        if span.function == register.function and not beside:
            yield f"is forbidden by limits ({span.first} to {span.last})"
    if register.function not in BITS and register.width > profile.limits.max_registers:
        yield f"is {register.width} registers wide, one request reads {profile.limits.max_registers}"
    if register.function in BITS and register.type != "bool":
        yield f"a {register.function} is a bool, not {register.type}"
    if (register.type == "string") != (register.words is not None):
        yield "words is the length of a string, and only of a string"
    yield from _of_parts(register)
    if register.magnitude and register.type not in {"i8", "i16", "i32", "i64"}:
        yield "magnitude belongs to an i16, i32 or i64, or to an i8"
    if register.word_order in {"swapped_pairs", "reversed_pairs"} and register.width > 2 and register.width != 4:
        yield f"pairs of words need four registers, this has {register.width}"
    yield from _of_scale(register)
    yield from _of_writing(register)


def _of_writing(register: Register) -> Iterator[str]:
    if not register.writable:
        if (register.min, register.max, register.write_function) != (None, None, None) or register.verify_after_ms:
            yield "min, max, write_function and verify_after_ms are for what is writable"
        return
    if register.function not in {"holding", "coil"}:
        table = {"input": "an input", "discrete": "a discrete input"}[register.function]
        yield f"{table} can't be written; only holding registers and coils"
        return
    if register.scale_from is not None:
        yield "what another register scales can't be written"
    if register.part and register.width > 1:
        yield "a part of several registers can't be written at once"
    fitting = {5, 15} if register.function == "coil" else {22} if register.part else {16, 23}
    if register.function == "holding" and not register.part and register.width == 1:
        fitting.add(6)
    if register.written_by not in fitting:
        yield f"is written by function {' or '.join(map(str, sorted(fitting)))}, not {register.written_by}"
    limited = register.min is not None or register.max is not None
    if limited and register.type in {"bool", "string", *MOMENTS}:
        yield f"a {register.type} has no min and max"
    if register.min is not None and register.max is not None and register.max < register.min:
        yield "max is below min"


def _of_parts(register: Register) -> Iterator[str]:
    """Bits and halves."""
    field = register.bits is not None
    holder = register.type in {"u16", "u32"} if field else register.type == "bool"
    if field and register.bit is None:
        yield "bits is the width of a field; its lowest bit is bit"
    if register.bit is not None and (not holder or register.function in BITS):
        yield "bit belongs to a bool in a holding or input register, or with bits to a field in an u16 or u32"
    last = (register.bit or 0) + (register.bits or 1) - 1
    if register.bit is not None and last > 16 * register.width - 1:
        yield f"bit {last} is none of its {16 * register.width}"
    if register.type == "bool" and register.function not in BITS and register.bit is None:
        yield "a bool in a register needs bit (0 to 15)"
    if (register.type in {"u8", "i8"}) != (register.byte is not None):
        yield 'byte says which half an u8 or i8 is: "high" or "low"'


def _of_scale(register: Register) -> Iterator[str]:
    scaled = register.scale is not None or register.offset != 0.0
    if register.type in {"bool", "string", *MOMENTS} and (scaled or register.decimals is not None):
        yield f"a {register.type} has no scale"
    if register.labels and (scaled or register.decimals is not None or register.type in {"string", *FLOATS, *MOMENTS}):
        yield "labels belong to an integer without a scale"
    if register.scale_from is not None and (scaled or register.decimals is not None or register.labels):
        yield "either scale_from, or decimals, scale, offset and labels"
    if register.scale_from is not None and register.type in {"bool", "string", *FLOATS, *MOMENTS}:
        yield f"a {register.type} has no scale"
    if register.type in FLOATS and scaled:
        yield "a float is the value itself; scale and offset are for integers"
    if scaled and register.decimals is not None:
        yield "either decimals, or scale and offset"
    if register.scale == 0.0:
        yield "scale can't be 0"
