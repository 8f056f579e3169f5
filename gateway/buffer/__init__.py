"""Where data rests durably until the control plane has confirmed it."""
