"""What a device says that it is: read device identification, 43/14, of as many frames as it takes.

Source: "MODBUS Application Protocol V1.1b3", 6.21.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.sensors.modbus_frames import ReadFailed, exception_answer, follows, identification, objects

NAMES = (
    "vendor_name", "product_code", "revision", "vendor_url", "product_name", "model_name", "user_application_name",
)  # fmt: skip
VENDOR_NAME = 0
_EXTENDED, _BASIC = 3, 1
_NO_SUCH_FUNCTION = 1
_MOST_FRAMES = 256
Ask = Callable[[bytes], Awaitable[bytes]]
"""A question's PDU → its answer's, an exception included. Raises ReadFailed."""


async def identified(ask: Ask, unit: int) -> dict[str, str]:
    """All objects it has, by name. Raises ReadFailed.

    By the standard a level holds those below it; some devices refuse a level they don't have, some give of each its own
    objects only. So lower levels are asked until the vendor's name is there, which every device has.
    """
    code, found = 0, dict[int, bytes]()
    for level in range(_EXTENDED, _BASIC - 1, -1):
        answer = await ask(identification(level, 0))
        if answer[0] & 0x80:
            code = answer[1]
            if code == _NO_SUCH_FUNCTION:
                break
            continue
        found |= await _all(ask, level, answer, unit)
        if VENDOR_NAME in found:
            break
    if not found and code:
        raise exception_answer(f"unit {unit}, identification", code)
    return {_name(number): _text(value) for number, value in sorted(found.items())}


async def _all(ask: Ask, level: int, answer: bytes, unit: int) -> dict[int, bytes]:
    found = dict(objects(answer))
    for _ in range(_MOST_FRAMES):
        following = follows(answer)
        if following is None:
            return found
        if following in found:
            break
        answer = await ask(identification(level, following))
        if answer[0] & 0x80:
            raise exception_answer(f"unit {unit}, identification from object {following}", answer[1])
        found |= dict(objects(answer))
    raise ReadFailed("malformed", f"unit {unit}: an identification that goes round in circles")


def _name(number: int) -> str:
    return NAMES[number] if number < len(NAMES) else f"object_{number}"


def _text(value: bytes) -> str:
    """ASCII by the standard; others are shown as they can be."""
    return value.decode("utf-8", errors="replace").strip("\0 ")
