"""Device knowledge as data: registers, limits and quirks of sensors that exist."""
