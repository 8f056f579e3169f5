"""HTML from nested calls: every text is escaped unless it was made here, so that forgetting it is impossible."""

from __future__ import annotations

from html import escape

HARMLESS = {"\n", "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"}
VOID = {"input", "link", "meta", "br"}


class Markup(str):
    """HTML that `el` or `join` made."""

    __slots__ = ()


def el(tag: str, *inside: str | None, **attributes: str | bool | None) -> Markup:
    """`<tag …>inside</tag>`. Attribute names: class_ → class, aria_label → aria-label; None and False leave one out."""
    said = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    if tag in VOID:
        return Markup(f"<{tag}{said}>")
    return Markup(f"<{tag}{said}>{join(*inside)}</{tag}>")


def join(*parts: str | None) -> Markup:
    return Markup("".join(_safe(part) for part in parts if part is not None))


def _safe(part: str) -> str:
    return part if isinstance(part, Markup) else escape(_visible(part))


def _attribute(name: str, value: str | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(_visible(str(value)))}"'


def _visible(text: str) -> str:
    """Control characters and those that turn the direction of writing are shown as what they are: nothing."""
    return "".join(one if one.isprintable() or one in HARMLESS else "\N{REPLACEMENT CHARACTER}" for one in text)
