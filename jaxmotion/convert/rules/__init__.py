"""One table of rules per checkpoint format."""
