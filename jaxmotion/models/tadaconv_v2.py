"""TAdaConvNeXtV2: ConvNeXt whose depthwise kernels and biases are calibrated for every frame by attention over time.

Source: "Temporally-Adaptive Models for Efficient Video Understanding" (TAdaConvV2, arXiv:2308.05787), and the public
code of its authors, quirks included: attention's scale is that of the whole width, and the joined projection of query,
key and value is read with the head's width outermost. As published a norm of the pooled features and a linear head
follow; here the network ends in its features, so that it can stand where a TAda2D does.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.models.tadaconv import TimeConv, mean_of_three
from jaxmotion.nn.feedforward import quick_gelu
from jaxmotion.nn.linear import LayerNorm, Linear

TRUNCATED = nn.initializers.truncated_normal(0.02)
KERNEL = 7


@register()
@dataclasses.dataclass(frozen=True)
class TAdaConvNeXtV2Sizes:
    """The sizes of a TAdaConvNeXtV2."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    features: tuple[int, ...] = (96, 192, 384, 768)
    reduction: int = 2
    """Channels of a route function's input over those of its middle."""
    head: int = 48
    """Width of a head of its attention."""

    def build(self) -> TAdaConvNeXtV2:
        """The network of these sizes."""
        return TAdaConvNeXtV2(self)


V2_TINY = TAdaConvNeXtV2Sizes()
"""TAdaConvNeXtV2-T as published."""
V2_SMALL = TAdaConvNeXtV2Sizes(depths=(3, 3, 27, 3))
V2_BASE = TAdaConvNeXtV2Sizes(depths=(3, 3, 27, 3), features=(128, 256, 512, 1024), head=64)


class AttentiveRoute(nn.Module):
    """The route function: factors for kernels and for biases in each frame, [B T C] each; 1 at first.

    Source: arXiv:2308.05787, section 3.2.
    """

    reduction: int
    head: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> tuple[Float[Array, "B T C"], Float[Array, "B T C"]]:
        C = x.shape[-1]
        y = TimeConv(C // self.reduction, name="a")(x.mean((2, 3)))
        y = quick_gelu(LayerNorm(1e-6, name="norm")(y))
        y = y + self._attention(LayerNorm(1e-6, name="norm_transformer")(y))
        zeros = nn.initializers.zeros
        kernel = TimeConv(C, bias=False, kernel_init=zeros, name="b")(y) + 1
        return kernel, TimeConv(C, bias=False, kernel_init=zeros, name="b_bias")(y) + 1

    def _attention(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Attention over time."""
        D = x.shape[-1]
        joined = Linear(3 * D, kernel_init=TRUNCATED, name="qkv_proj")(x)
        query, key, value = rearrange(joined, "B T (three d n) -> three B n T d", three=3, d=self.head)
        weights = jax.nn.softmax(jnp.einsum("BnTd,BnSd->BnTS", query, key) * D**-0.5, axis=-1)
        mixed = jnp.einsum("BnTS,BnSd->BnTd", weights, value)
        return Linear(D, kernel_init=TRUNCATED, name="attn_out")(rearrange(mixed, "B n T d -> B T (n d)"))


class CalibratedDepthwise(nn.Module):
    """A depthwise 7 x 7 convolution whose kernel and bias are scaled along its output channels, frame by frame.

    alpha (x * W) is x * (alpha W). Source: arXiv:2308.05787, Eq. 3.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T H W C"], kernel_factor: Float[Array, "B T C"], bias_factor: Float[Array, "B T C"]
    ) -> Float[Array, "B T H W C"]:
        C = x.shape[-1]
        kernel = self.param("kernel", TRUNCATED, (KERNEL, KERNEL, 1, C))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        y = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            kernel.astype(x.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=C,
        )
        return y.reshape(x.shape) * kernel_factor[:, :, None, None] + (bias * bias_factor)[:, :, None, None]


class Block(nn.Module):
    """Calibrated depthwise convolution, norms of it and of its mean over three frames, MLP; plus the input.

    As published the norm of the mean starts at 0; here it starts as norms do, behind a gamma that starts at 1e-6.
    """

    sizes: TAdaConvNeXtV2Sizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
        C = x.shape[-1]
        factors = AttentiveRoute(self.sizes.reduction, self.sizes.head, name="dwconv_rf")(x)
        y = CalibratedDepthwise(name="dwconv")(x, *factors)
        y = LayerNorm(1e-6, name="norm")(y) + LayerNorm(1e-6, name="norm_avgpool")(mean_of_three(y))
        y = quick_gelu(Linear(4 * C, kernel_init=TRUNCATED, name="pwconv1")(y))
        y = Linear(C, kernel_init=TRUNCATED, name="pwconv2")(y)
        return x + self.param("gamma", nn.initializers.constant(1e-6), (C,)) * y


class TAdaConvNeXtV2(nn.Module):
    """Clips [B T H W C], H and W multiples of 32, to features [B (T + 1) / 2 H / 32 W / 32 D]."""

    sizes: TAdaConvNeXtV2Sizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
        sizes = self.sizes
        for number, (depth, features) in enumerate(zip(sizes.depths, sizes.features, strict=True)):
            if number == 0:
                x = Linear(features, kernel_init=TRUNCATED, name="stem")(tubelets(x))
                x = LayerNorm(1e-6, name="stem_norm")(x)
            else:
                x = LayerNorm(1e-6, name=f"down_{number}_norm")(x)
                x = Linear(features, kernel_init=TRUNCATED, name=f"down_{number}")(squares(x, 2))
            for index in range(depth):
                x = Block(sizes, name=f"stage_{number}_block_{index}")(x)
        return x


def squares(x: Float[Array, "B T H W C"], side: int) -> Float[Array, "B T h w D"]:
    """The pixels of every square side by side; what does not fill a square is left out."""
    height, width = (size // side * side for size in x.shape[2:4])
    pattern = "B T (h i) (w j) C -> B T h w (i j C)"
    return rearrange(x[:, :, :height, :width], pattern, i=side, j=side)


def tubelets(x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
    """Squares of 4 x 4 pixels in three frames around every second one, zeros beside the clip."""
    padded = jnp.pad(squares(x, 4), ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    count = (x.shape[1] - 1) // 2 + 1
    return jnp.concatenate([padded[:, start : start + 2 * count - 1 : 2] for start in range(3)], -1)
