"""Backends: the same environment functions on different machines."""
