from __future__ import annotations

import msgspec

from control_plane.api.binding import Permission, Route
from control_plane.fleet.authority import Authority
from control_plane.settings import Settings


class EnrolmentFacts(msgspec.Struct, frozen=True):
    """Fetched unverified: what makes it trustworthy is that the CA hashes to what the join token says."""

    ca_pem: str
    ca_sha256: str
    grpc: str
    identity: str


class EnrolmentDocument:
    def __init__(self, *, settings: Settings, authority: Authority) -> None:
        self._facts = EnrolmentFacts(
            ca_pem=authority.ca_pem.decode(),
            ca_sha256=authority.fingerprint,
            grpc=settings.advertised(settings.grpc),
            identity=settings.advertised(settings.identity),
        )

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/enrolment",
                view=self.get,
                permission=Permission.PUBLIC,
                summary="The fleet's CA and where gateways connect",
            ),
        )

    def get(self) -> EnrolmentFacts:
        return self._facts
