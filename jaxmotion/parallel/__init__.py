"""Devices: the mesh, and the sharding of arrays over it."""
