"""How much the objects and the camera of a clip move: meters, pseudo-labels, and the tool that scores files.

from jaxmotion.score import estimate
"""

from jaxmotion.score.meter import estimate
from jaxmotion.score.reading import Clip, Meter, Reading

__all__ = ["Clip", "Meter", "Reading", "estimate"]
