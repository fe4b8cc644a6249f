"""The motion estimator of MotionStone (arXiv:2412.05848) as a system that is trained by itself."""

PUBLIC = {"MotionEstimator": "motion_estimator"}
"""Names that `jaxmotion` offers, and the modules here that define them."""
