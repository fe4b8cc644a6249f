"""One table of rules per network and checkpoint format."""
