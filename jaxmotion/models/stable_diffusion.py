"""The U-Net of Stable Diffusion 1.5, frame by frame, with a place for layers that a video system adds.

Source: latent diffusion (arXiv:2112.10752) and the public Stable Diffusion 1.5 weights, which it matches weight by
weight (`convert/rules/stable_diffusion.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from jax.sharding import PartitionSpec as P

from jaxmotion.models.unet import UNet, UNetSizes
from jaxmotion.nn.chain import Chain, Layer
from jaxmotion.nn.convolution import ResBlock
from jaxmotion.nn.transformer import CrossAttention, FeedForward, SelfAttention, SpatialTransformer

FULL = UNetSizes()
TINY = UNetSizes(features=(32, 64), blocks_per_stage=1, attention_stages=(True, True), heads=4, groups=8)

CONTEXT_FEATURES = 768
"""Width of the text tokens that the public weights were trained with."""


def transformer_layers(sizes: UNetSizes) -> dict[str, Layer]:
    """The layers of Stable Diffusion's transformer block: attention to the frame and to the text, feedforward."""
    kernel = sizes.attention_kernel
    return {
        "space": partial(SelfAttention, sizes.heads, kernel=kernel),
        "text": partial(CrossAttention, sizes.heads, reads="text", kernel=kernel),
        "feedforward": partial(FeedForward, sizes.expansion),
    }


def stable_diffusion_unet(
    sizes: UNetSizes,
    transformer: Mapping[str, Layer] | None = None,
    after_block: Mapping[str, Layer] | None = None,
    after_middle: Mapping[str, Layer] | None = None,
) -> UNet:
    """The U-Net, of frames that do not see each other unless an added layer lets them.

    Args:
        transformer: named layers of sequences [B G S C] of each transformer block; `transformer_layers(sizes)` if not
            given.
        after_block: named layers of clips [B T H W C] that follow the resnet (and transformer) of every block of all
            stages, such as motion modules.
        after_middle: the same between the transformer and the second resnet of the middle.
    """
    transformer = transformer_layers(sizes) if transformer is None else transformer
    attention = partial(SpatialTransformer, partial(Chain, transformer), sizes.groups)

    def blocks(stage: int) -> dict[str, Layer]:
        layers: dict[str, Layer] = {"resnet": partial(ResBlock, sizes.features[stage], sizes.groups)}
        if sizes.attention_stages[stage]:
            layers["transformer"] = attention
        return {**layers, **(after_block or {})}

    resnet = partial(ResBlock, sizes.features[-1], sizes.groups)
    middle = {"resnet_in": resnet, "transformer": attention, **(after_middle or {}), "resnet_out": resnet}
    return UNet(sizes, blocks, tuple(middle.items()))


SHARDING = (
    # Linear layers: the inputs of attention and feedforward by output feature, their outputs by input feature.
    (r"/(query|key|value)/kernel$", P("fsdp", "tensor")),
    (r"/mlp/linear_in/kernel$", P("fsdp", None, "tensor")),
    (r"/mlp/linear_in/bias$", P(None, "tensor")),
    (r"/(out|linear_out|proj_out)/kernel$", P("tensor", "fsdp")),
    (r"/(proj_in|linear_in)/kernel$", P("fsdp", "tensor")),
    (r"/(time|shortcut)/kernel$", P("fsdp")),
    # Convolutions, and what is added to them, over fsdp only: split over tensor as well, gradients come out wrong on
    # CPU devices (jax 0.10.2).
    (r"/resnet\w*/conv_(in|out)/kernel$", P(None, None, "fsdp")),
    (r"(^|/)(conv_in|conv_condition|conv_out)/kernel$", P()),
    (r"/conv/kernel$", P(None, None, "fsdp")),
    # Norms, biases, gates.
    (r".*", P()),
)
