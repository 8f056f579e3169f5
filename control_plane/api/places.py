from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Attrs, Name, Slug, etag
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import FieldProblem, Problem
from control_plane.fleet.places import PlaceFields, Places
from control_plane.fleet.rights import Caller
from control_plane.fleet.shapes import Circle, Ring, mistakes


class PlaceItem(msgspec.Struct, frozen=True, kw_only=True):
    """Either `circle` or `polygon`."""

    slug: str
    name: str
    circle: Circle | UnsetType = UNSET
    polygon: list[tuple[float, float]] | UnsetType = UNSET
    attrs: dict[str, str]
    created: datetime
    etag: str


class PlaceBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either `circle`, or `polygon`: a closed ring of [lat, lon] that does not cross itself."""

    name: Name = ""
    circle: Circle | UnsetType = UNSET
    polygon: Ring | UnsetType = UNSET
    attrs: Attrs = {}


class PlaceRoutes:
    def __init__(self, *, places: Places) -> None:
        self._places = places

    def routes(self) -> tuple[Route, ...]:
        one = "/places/{slug}"
        return (
            Route(
                method="GET", path="/places", view=self.list, permission=Permission.VIEWER, summary="Places, by slug"
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="One place"),
            Route(
                method="PUT",
                path=one,
                view=self.save,
                permission=Permission.OPERATOR,
                summary='Make a place (If-Match: "0") or change it; needs the whole fleet',
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.delete,
                permission=Permission.OPERATOR,
                summary="Delete a place; needs the whole fleet",
            ),
        )

    def list(self, query: PageQuery) -> Page[PlaceItem]:
        (after,) = query.after(str) or ("",)
        rows = self._places.listed(after=after, limit=query.limit + 1)
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.slug,))

    def get(self, slug: Slug) -> PlaceItem:
        return _item(self._places.get(slug))

    def save(self, slug: Slug, body: PlaceBody, caller: Caller, if_match: int) -> PlaceItem:
        whole_fleet(caller)
        fields = PlaceFields(body.name, _shape(body), body.attrs)
        return _item(self._places.save(slug, fields, expected=if_match, by=caller.name))

    def delete(self, slug: Slug, caller: Caller, if_match: int) -> None:
        whole_fleet(caller)
        self._places.delete(slug, expected=if_match, by=caller.name)


def _shape(body: PlaceBody) -> dict[str, Any]:
    if (body.circle is UNSET) == (body.polygon is UNSET):
        wrong = FieldProblem("", "needs either a circle or a polygon")
        raise Problem(422, "The body is not valid.", errors=[wrong])
    if isinstance(body.circle, Circle):
        return {"circle": msgspec.to_builtins(body.circle)}
    assert not isinstance(body.polygon, UnsetType)
    wrong_corners = [FieldProblem(f"/polygon/{index}", sentence) for index, sentence in mistakes(body.polygon)]
    if wrong_corners:
        raise Problem(422, "The body is not valid.", errors=wrong_corners)
    return {"polygon": msgspec.to_builtins(body.polygon)}


def _item(row: Any) -> PlaceItem:
    shape = msgspec.json.decode(row.shape, type=dict[str, Any])
    return PlaceItem(
        slug=row.slug,
        name=row.name,
        circle=msgspec.convert(shape["circle"], Circle) if "circle" in shape else UNSET,
        polygon=[(lat, lon) for lat, lon in shape["polygon"]] if "polygon" in shape else UNSET,
        attrs=msgspec.json.decode(row.attrs, type=dict[str, str]),
        created=moment(row.created_ms),
        etag=etag(row.version),
    )
