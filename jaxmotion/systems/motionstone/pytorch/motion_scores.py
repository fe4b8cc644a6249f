"""Motion scores as a vector for the time embedding of CogVideoX (MotionStone, arXiv:2412.05848).

This file ships inside exported folders. It needs PyTorch and diffusers.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps


class MotionScores(ModelMixin, ConfigMixin):
    """Each score through the sinusoid of the time and an MLP of its own, in its share of the channels.

    features: width of the time embedding.
    scores:   by name: the MLP's width, `share` (first_half, second_half or all) and the default.
    """

    @register_to_config
    def __init__(self, features: int, scores: dict):
        super().__init__()
        for name, score in scores.items():
            self.add_module(name, TimestepEmbedding(score["width"], score["width"]))

    def forward(self, asked: dict) -> torch.Tensor:
        """Name -> score, or None for one that is left out, to a float32 vector [1, features]."""
        features = self.config["features"]
        total = torch.zeros(1, features, device=self.device)
        for name, score in self.config["scores"].items():
            value = asked.get(name, score["default"])
            if value is None:
                continue
            mlp = getattr(self, name)
            waves = Timesteps(score["width"], flip_sin_to_cos=True, downscale_freq_shift=0)
            vector = mlp(waves(torch.tensor([float(value)], device=self.device)).to(self.dtype)).float()
            start = features // 2 if score["share"] == "second_half" else 0
            total[:, start : start + score["width"]] += vector
        return total
