"""One file per kind of far side."""

CONNECTORS = {"webhook": "control_plane.relay.connectors.webhook:WebhookConnector"}
