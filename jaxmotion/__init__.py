"""Image-to-video with measured, controllable motion, in JAX and Flax."""

__version__ = "0.1.0"
