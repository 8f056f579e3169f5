"""How the box is."""
