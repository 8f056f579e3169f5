"""The edge gateway daemon: sensors → pipeline → buffer → uplink."""
