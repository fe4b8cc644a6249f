"""LivePhoto (arXiv:2312.02928)."""

PUBLIC = {"LivePhoto": "livephoto"}
"""Names that `jaxmotion` offers, and the modules here that define them."""
