"""Types that several subjects' bodies share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)"
PATH = r"^[a-z0-9][a-z0-9-]{0,62}(/[a-z0-9][a-z0-9-]{0,62}){0,4}$(?!\n)"
"""Python's $ also stands before a newline at the end."""

Slug = Annotated[str, Meta(pattern=SLUG)]
AssetId = Annotated[str, Meta(pattern=PATH)]
"""A slug path, at most five slugs deep."""
Name = Annotated[str, Meta(max_length=200)]
Reason = Annotated[str, Meta(min_length=3, max_length=1000)]
Notes = Annotated[str, Meta(max_length=4000)]
Attrs = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=1000)]], Meta(max_length=50)
]


def etag(version: int) -> str:
    return f'"{version}"'
