"""The systems of the papers: networks, and what they are told."""
