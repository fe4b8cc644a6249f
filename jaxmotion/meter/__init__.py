"""How much the objects and the camera of a clip move: meters, pseudo-labels, and the tool that scores files."""
