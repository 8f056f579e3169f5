"""The configuration panel of a gateway's page: what is wanted, what runs, and what differs."""

from __future__ import annotations

from typing import Any

import msgspec

from control_plane.api.configuration import ConfigurationRoutes
from control_plane.web.gateway import ConfigPanel, ConfigView, Difference


def configuration_view(configuration: ConfigurationRoutes) -> ConfigView:
    """None for a gateway that nothing is wanted of: its page then says what it runs by its own word."""

    def view(gateway_id: str) -> ConfigPanel | None:
        found = configuration.configuration(gateway_id)
        if found.desired is None:
            return None
        return ConfigPanel(
            state=found.state,
            sentence=found.sentence,
            desired_generation=found.desired.generation,
            desired_hash=bytes.fromhex(found.desired.hash),
            differences=tuple(
                Difference(pointer=one.pointer, desired=_leaf(one.after), running=_leaf(one.before))
                for one in found.diff
            ),
        )

    return view


def _leaf(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
