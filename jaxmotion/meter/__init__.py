"""Measures how much the objects and the camera of a clip move: meters, pseudo-labels, and a tool that scores files."""
