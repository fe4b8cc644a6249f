"""MotionStone (arXiv:2412.05848): a motion estimator with two axes, and video that follows its scores."""

PUBLIC = {"MotionStone": "motionstone"}
"""Names that `jaxmotion` offers, and the modules here that define them."""
