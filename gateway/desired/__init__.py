"""Configuration from the control plane, the device's side: taken whole and proven, or undone without anyone's help."""
