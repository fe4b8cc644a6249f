"""LivePhoto's text re-weighting: how much each word matters on each frame (arXiv:2312.02928, Sec. 3.5)."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class TextReweighting(ModelMixin, ConfigMixin):
    """Text embeddings times weights in (0, 2 initial_weight), one for each frame and token.

    dim: width of the text embeddings.
    num_frames: frames of a clip; the last layer has one row for each.
    """

    @register_to_config
    def __init__(self, dim: int, num_frames: int, num_layers: int = 3, heads: int = 8, initial_weight: float = 0.5):
        super().__init__()
        self.layers = nn.ModuleList([BasicTransformerBlock(dim, heads, dim // heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(dim)
        self.frame_weights = nn.Linear(dim, num_frames)

    def forward(self, text):
        """[batch, length, dim] -> [batch, frames, length, dim]."""
        hidden = text
        for layer in self.layers:
            hidden = layer(hidden)
        weights = 2 * self.config.initial_weight * torch.sigmoid(self.frame_weights(self.norm(hidden)))
        return weights.transpose(1, 2)[..., None] * text[:, None]
