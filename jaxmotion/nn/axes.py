"""Application of layers along space or time of a clip [B T H W C].

Layers of sequences take [B G S C]: `G` sequences of length `S` per clip that do not see each other. Over space the
sequences are the frames and their elements the pixels; over time the sequences are the pixels and their elements the
frames. Layers of images (convolutions, norms) take [B T H W C] as it is and treat T as a batch axis.
"""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Array, Float


def over_space(layer: Callable[..., Array], x: Float[Array, "B T H W C"], *rest) -> Float[Array, "B T H W D"]:
    """Applies a layer of sequences to the pixels of each frame; frames do not see each other."""
    H, W = x.shape[2:4]
    y = layer(rearrange(x, "B T H W C -> B T (H W) C"), *rest)
    return rearrange(y, "B T (H W) C -> B T H W C", H=H, W=W)


def over_time(layer: Callable[..., Array], x: Float[Array, "B T H W C"], *rest) -> Float[Array, "B T H W D"]:
    """Applies a layer of sequences to the frames of each pixel; pixels do not see each other."""
    H, W = x.shape[2:4]
    y = layer(rearrange(x, "B T H W C -> B (H W) T C"), *rest)
    return rearrange(y, "B (H W) T C -> B T H W C", H=H, W=W)
