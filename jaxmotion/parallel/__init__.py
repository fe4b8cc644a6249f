"""Devices: the mesh, and which part of which array lives where."""
