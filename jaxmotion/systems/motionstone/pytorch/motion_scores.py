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
        """Name -> score, a list of one for each clip, or None to leave it out, to float32 vectors [clips, features]."""
        features, rows = self.config["features"], [list(v) for v in asked.values() if isinstance(v, (list, tuple))]
        total = torch.zeros(max(map(len, rows), default=1), features, device=self.device)
        for name, score in self.config["scores"].items():
            value = asked.get(name, score["default"])
            if value is None:
                continue
            mlp = getattr(self, name)
            waves = Timesteps(score["width"], flip_sin_to_cos=True, downscale_freq_shift=0)
            values = torch.tensor(value, dtype=torch.float32, device=self.device).reshape(-1)
            vector = mlp(waves(values).to(self.dtype)).float()
            start = features // 2 if score["share"] == "second_half" else 0
            total[:, start : start + score["width"]] += vector
        return total
