"""One file per kind of far side. To add one: write the file, name it here.

Names are resolved when a destination asks for them, so that nobody loads what it does not use.
"""

CONNECTORS = {
    "webhook": "control_plane.relay.connectors.webhook:WebhookConnector",
}
"""Kind in an integration's file → class. Its `Options` are the settings of that kind."""
