"""Letting a gateway go on of which two boxes were seen to live."""

from __future__ import annotations

from control_plane.api.binding import Permission, Route
from control_plane.api.gateways import visible
from control_plane.fleet.clones import Clones
from control_plane.fleet.rights import Caller


class CloneRoutes:
    def __init__(self, *, clones: Clones) -> None:
        self._clones = clones

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/gateways/{gateway_id}/clone/release",
                view=self.release,
                permission=Permission.ADMIN,
                summary="Let a gateway go on that was paused because two boxes used its identity",
                problems=(409,),
            ),
        )

    def release(self, gateway_id: str, caller: Caller) -> None:
        visible(caller, gateway_id)
        self._clones.release(gateway_id, by=caller.name)
