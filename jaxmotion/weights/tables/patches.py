"""The layer that turns patches of an image into tokens."""

from __future__ import annotations

from jaxmotion.weights.rules import Transform

PATCHES = Transform(  # a strided convolution [D 3 p p] there, a linear layer on flattened patches [p p 3] here
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(side := round((x.shape[0] / 3) ** 0.5), side, 3, -1).transpose(3, 2, 0, 1),),
)
