"""LivePhoto (arXiv:2312.02928)."""
