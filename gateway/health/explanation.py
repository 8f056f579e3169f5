"""The way of one quantity from its device to the control plane, in words."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from gateway.health.table import plain


class Step(Struct, frozen=True, kw_only=True):
    """One stretch of the way. Texts may come from devices: whoever shows them must treat them as hostile."""

    name: str
    says: list[str]


class Explanation(Struct, frozen=True, kw_only=True):
    """`wrong`: what a person should look at, empty while all is well. `known` False: there is no such tag."""

    tag: str
    known: bool = True
    steps: list[Step] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def text(found: Explanation) -> str:
    """For a person: what is wrong first, then the way from top to bottom."""
    lines = [plain(found.tag), *(plain(f"!! {line}") for line in found.wrong)]
    if found.known and not found.wrong:
        lines.append("all is well on its way")
    width = max((len(step.name) for step in found.steps), default=0)
    for step in found.steps:
        lines += _told(step.name, step.says, width)
    return "\n".join(lines)


def _told(name: str, says: Sequence[str], width: int) -> list[str]:
    return [plain(f"{name if not index else '':<{width}}  {line}") for index, line in enumerate(says)]
