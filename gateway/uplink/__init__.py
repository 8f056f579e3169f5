"""Carries sealed batches to the control plane: lease → send → ack."""
