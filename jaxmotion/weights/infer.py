"""The parameters that a network of the same sizes as a checkpoint has: what a whole checkpoint would hold.

Sizes are read off the shapes that are there, by our paths, so one reading serves all formats of a network.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxmotion.foundation.types import Condition
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.autoencoder import AutoencoderKL, KLSizes
from jaxmotion.models.autoencoder3d import Autoencoder3D, Autoencoder3DSizes
from jaxmotion.models.autoencoder_tiny import AutoencoderTiny, AutoencoderTinySizes
from jaxmotion.models.autoencoder_tiny3d import TinyDecoder3D, TinyDecoder3DSizes
from jaxmotion.models.clip import CLIPText, CLIPTextSizes, CLIPVision, CLIPVisionSizes
from jaxmotion.models.cogvideox import CogVideoX, CogVideoXSizes
from jaxmotion.models.dinov2 import DINOv2, DINOv2Sizes
from jaxmotion.models.stable_diffusion import CONTEXT_FEATURES, stable_diffusion_unet
from jaxmotion.models.t5 import T5Encoder, T5Sizes
from jaxmotion.models.unet import UNetSizes

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by path, below a part."""


def whole(part: str, seen: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters, by path below the part, of the network that these are of; without a known network, these.

    Raises:
        KeyError: a parameter is missing without which the sizes cannot be told; it is the error's argument.
    """
    if part not in _NETWORKS or not seen:
        return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in seen.items()}
    return _whole(part, tuple(seen.items()))


def network(part: str, seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network that parameters of these shapes, by path below the part, are of, and inputs to start it with.

    Raises:
        KeyError: a parameter is missing without which the sizes cannot be told, or there is no such part.
    """
    return _NETWORKS[part](seen)


@functools.lru_cache(maxsize=16)
def _whole(part: str, seen: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, jax.ShapeDtypeStruct]:
    found, inputs = network(part, dict(seen))
    shapes = jax.eval_shape(found.init, jax.random.key(0), *inputs)["params"]
    return flatten_dict(shapes, sep="/")  # pyright: ignore[reportReturnType]


def _denoiser(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    return _transformer(seen) if any(path.startswith("stack/layers/modulate_") for path in seen) else _unet(seen)


def _transformer(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    """CogVideoX. How many frames a patch spans cannot be told, and changes no shape."""
    depth, features, _ = seen["stack/layers/attention/query/kernel"]
    head = seen["stack/layers/attention/norm_query/scale"][1]
    rows = seen.get("positions", (2,))[0]
    sizes = CogVideoXSizes(
        depth=depth,
        heads=features // head,
        head_features=head,
        in_channels=seen["patches/kernel"][0] // 4,
        out_channels=seen["out/kernel"][1] // 4,
        text_features=seen["text/kernel"][0],
        text_length=rows - 1,
        time_features=seen["time/linear_out/kernel"][1],
        positions="rotary_and_learned" if "positions" in seen else "rotary",
        grid=(1, 1, 1),
        offset="offset/linear_in/kernel" in seen,
        pad_to=1,
    )
    condition = Condition(tokens={"text": jnp.zeros((1, 1, rows - 1, sizes.text_features))})
    return CogVideoX(sizes), (jnp.zeros((1, 1, 2, 2, sizes.in_channels)), jnp.zeros((1,), jnp.int32), condition)


def _unet(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    """The U-Net with or without motion modules; of motion modules alone, the U-Net that they belong to."""
    stages = 1 + _last(r"down_(\d+)_block_0/", seen)
    blocks = 1 + _last(r"down_0_block_(\d+)/", seen)
    motion = any("/motion/" in path for path in seen)
    name = "resnet/norm_out/scale" if any("/resnet/" in path for path in seen) else "motion/norm/scale"
    features = tuple(seen[f"down_{stage}_block_0/{name}"][0] for stage in range(stages))
    kernel = seen.get("conv_in/kernel", (3, 3, 4, features[0]))
    text = seen.get("middle/transformer/block/text/attention/key/kernel", (CONTEXT_FEATURES,))[0]
    expansion = 4
    if "middle/transformer/block/feedforward/mlp/linear_in/kernel" in seen:
        inner = seen["middle/transformer/block/feedforward/mlp/linear_in/kernel"]
        expansion = inner[2] // inner[0]
    sizes = UNetSizes(
        in_channels=kernel[2],
        out_channels=seen.get("conv_out/kernel", kernel)[3] if "conv_out/kernel" in seen else kernel[2],
        condition_channels=seen.get("conv_condition/kernel", (0, 0, 0))[2],
        features=features,
        blocks_per_stage=blocks,
        attention_stages=tuple(f"down_{s}_block_0/transformer/proj_in/kernel" in seen for s in range(stages)),
        heads=1,
        groups=1,
        expansion=expansion,
    )
    module = {"motion": partial(MotionModule, 1, 1, expansion=expansion)} if motion else {}
    middle = module if any(path.startswith("middle/motion/") for path in seen) else {}
    network = stable_diffusion_unet(sizes, after_block=module, after_middle=middle)
    shape = (1, 1, sizes.stride, sizes.stride)
    channels = (jnp.zeros((*shape, sizes.condition_channels)),) if sizes.condition_channels else ()
    condition = Condition(channels=channels, tokens={"text": jnp.zeros((1, 1, 1, text))})
    return network, (jnp.zeros((*shape, sizes.in_channels)), jnp.zeros((1,), jnp.int32), condition)


def _autoencoder(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    if not any(path.startswith("encoder/down_") for path in seen):
        return _autoencoder_tiny(seen)
    if "decoder/norm_out/scale/kernel" in seen:
        return _autoencoder3d(seen)
    stages = 1 + _last(r"encoder/down_(\d+)_resnet_0/", seen)
    sizes = KLSizes(
        latent_channels=seen["decoder/conv_in/kernel"][2],
        features=tuple(seen[f"encoder/down_{stage}_resnet_0/norm_out/scale"][0] for stage in range(stages)),
        blocks_per_stage=1 + _last(r"encoder/down_0_resnet_(\d+)/", seen),
        groups=1,
    )
    side = 2 ** (stages - 1)
    return AutoencoderKL(sizes), (jnp.zeros((1, 1, side, side, 3)),)


def _autoencoder_tiny(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    """Its encoder is a row of a convolution, then for each stage a convolution (not the first) and blocks; then one."""
    kernels = sorted(
        (int(found[1]), found[2] is not None)
        for path in seen
        if (found := re.fullmatch(r"encoder/layer_(\d+)(/conv_in)?/kernel", path))
    )
    blocks, count = [], 0
    for _, is_block in kernels[1:]:
        count += is_block
        if not is_block:
            blocks.append(count)
            count = 0
    features, latents = seen["encoder/layer_0/kernel"][3], seen["decoder/layer_0/kernel"][2]
    side = 2 ** max(len(blocks) - 1, 0)
    network = AutoencoderTiny(AutoencoderTinySizes(latents, features, tuple(blocks)))
    return network, (jnp.zeros((1, 1, side, side, 3)),)


def _tiny_decoder3d(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    """The decoder for previews; a stage is three blocks, a layer that may double frames, and a convolution."""
    grown = sorted(int(found[1]) for path in seen if (found := re.fullmatch(r"layer_(\d+)/grow/kernel", path)))
    kernels = {number: seen[f"layer_{number}/grow/kernel"] for number in grown}
    sizes = TinyDecoder3DSizes(
        latent_channels=seen["layer_1/kernel"][2],
        features=(seen["layer_1/kernel"][3], *(seen[f"layer_{number + 1}/kernel"][3] for number in grown)),
        doublings=tuple(kernel[1] == 2 * kernel[0] for kernel in kernels.values()),
        blocks=grown[0] - 4,
    )
    return TinyDecoder3D(sizes), (jnp.zeros((1, 2, 1, 1, sizes.latent_channels)),)


def _autoencoder3d(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    stages = 1 + _last(r"encoder/down_(\d+)_resnet_0/", seen)
    sizes = Autoencoder3DSizes(
        latent_channels=seen["decoder/conv_in/kernel"][3],
        features=tuple(seen[f"encoder/down_{stage}_resnet_0/norm_out/norm/scale"][0] for stage in range(stages)),
        blocks_per_stage=1 + _last(r"encoder/down_0_resnet_(\d+)/", seen),
        groups=1,
    )
    side = 2 ** (stages - 1)
    return Autoencoder3D(sizes), (jnp.zeros((1, 1, side, side, 3)),)


def _text(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    return _t5(seen) if "distances" in seen else _clip_text(seen)


def _t5(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    (vocabulary, features), (buckets, heads) = seen["tokens"], seen["distances"]
    depth, _, width = seen["stack/layers/query/kernel"]
    sizes = T5Sizes(
        vocabulary=vocabulary,
        features=features,
        depth=depth,
        heads=heads,
        head_features=width // heads,
        hidden=seen["stack/layers/mlp/linear_in/kernel"][3],
        buckets=buckets,
    )
    return T5Encoder(sizes), (jnp.zeros((1, 1), jnp.int32),)


def _clip_text(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    (vocabulary, features), length = seen["tokens"], seen["positions"][0]
    depth, _, hidden = seen["stack/layers/mlp/linear_in/kernel"]
    return CLIPText(CLIPTextSizes(vocabulary, length, features, depth, 1, hidden)), (jnp.zeros((1, 1), jnp.int32),)


def _clip_image(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    inputs, features = seen["patches/kernel"]
    depth, _, hidden = seen["stack/layers/mlp/linear_in/kernel"]
    patch, grid = math.isqrt(inputs // 3), math.isqrt(seen["positions"][0] - 1)
    sizes = CLIPVisionSizes(patch * grid, patch, features, depth, 1, hidden)
    return CLIPVision(sizes), (jnp.zeros((1, patch, patch, 3)),)


def _dinov2(seen: Shapes) -> tuple[nn.Module, tuple[Any, ...]]:
    inputs, features = seen["patches/kernel"]
    first = seen["stack/layers/mlp/linear_in/kernel"]
    patch, grid = math.isqrt(inputs // 3), math.isqrt(seen["positions"][0] - 1)
    sizes = DINOv2Sizes(
        image_size=patch * grid,
        patch=patch,
        grid=grid,
        features=features,
        depth=first[0],
        heads=1,
        hidden=first[-1],
        gated=len(first) == 4,
        registers=seen.get("registers", (0,))[0],
    )
    return DINOv2(sizes), (jnp.zeros((1, patch, patch, 3)),)


def _last(pattern: str, paths: Shapes) -> int:
    """The largest number in the paths' beginnings."""
    numbers = [int(found[1]) for path in paths if (found := re.match(pattern, path))]
    if not numbers:
        raise KeyError(pattern.replace(r"(\d+)", "0"))
    return max(numbers)


_NETWORKS: dict[str, Callable[[Shapes], tuple[nn.Module, tuple[Any, ...]]]] = {
    "denoiser": _denoiser,
    "codec": _autoencoder,
    "text_encoder": _text,
    "image_encoder": _clip_image,
    "content_encoder": _dinov2,
    "preview": _tiny_decoder3d,
}
