"""Stand-ins for the world around the control plane. They are product: demo, tests and development use the same ones."""
