"""Rules for the layers that LivePhoto adds to Stable Diffusion and AnimateDiff, by their PyTorch names.

Source: `pytorch/content_layers.py` and `pytorch/text_reweighting.py`. Paths are those of the whole
tree, because the content layers stand inside our denoiser and beside the public one.
"""

from __future__ import annotations

from jaxmotion.weights.rules import Rule, linear, norm, under
from jaxmotion.weights.tables.attention import attention, feedforward

_CONTENT_LAYER = (*norm("norm", "norm"), *attention("attention", "attention"), Rule("gate", "gate"))

_CONTENT_PLACES = {
    "layers.down_blocks_{stage}_attentions_{block}.": "denoiser/down_{stage}_block_{block}/transformer/block/content/",
    "layers.mid_block_attentions_0.": "denoiser/middle/transformer/block/content/",
    "layers.up_blocks_{stage}_attentions_{block}.": "denoiser/up_{stage}_block_{block}/transformer/block/content/",
}

CONTENT_LAYERS = (
    *linear("proj", "content"),
    *(rule for torch, path in _CONTENT_PLACES.items() for rule in under(torch, path, _CONTENT_LAYER)),
)

TEXT_REWEIGHTING = under(
    "",
    "reweighting/",
    (
        *under(
            "layers.{layer}.",
            "layer_{layer}/",
            (
                *norm("norm1", "attention/norm"),
                *attention("attn1", "attention/attention"),
                *norm("norm3", "feedforward/norm"),
                *feedforward("ff", "feedforward/mlp"),
            ),
        ),
        *norm("norm", "norm"),
        *linear("frame_weights", "frame_weights"),
    ),
)
