"""The web role: gunicorn around `create_web(settings)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from control_plane.clock import SystemClock
from control_plane.first_start import certificate_names
from control_plane.fleet.authority import Authority
from control_plane.gunicorn_conf import options
from control_plane.settings import Settings
from control_plane.web.live import Lifetime
from control_plane.wiring import create_web


def serve(settings: Settings, *, descriptor: int, ready: Callable[[], None]) -> None:
    """Serve on the listening socket `descriptor` until SIGTERM; plain HTTP only on a loopback address."""
    bundle = None
    if not settings.http_address.loopback:
        authority = Authority.open(settings.data)
        bundle = authority.server_identity(certificate_names(settings), now_ms=SystemClock().now_ms()).path
    lifetime = Lifetime()
    chosen = options(settings, descriptor=descriptor, tls_bundle=bundle, ready=ready, follow=lifetime.follow)
    _Server(settings, chosen, lifetime).run()


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, chosen: dict[str, Any], lifetime: Lifetime) -> None:
        self._settings = settings
        self._lifetime = lifetime
        self._chosen = chosen
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_web(self._settings, lifetime=self._lifetime)
