"""CogVideoX (arXiv:2408.06072): a diffusion transformer over text and video tokens in one sequence.

Source: `CogVideoXTransformer3DModel` of diffusers and the SAT code of its authors, at the sizes of the public weights
2B, 5B, 5B-I2V, 1.5-5B and 1.5-5B-I2V. Conditions enter as channels beside z_t (the image of the I2V weights), as tokens
`text` (T5's), and as vectors added to the time embedding.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Condition
from jaxmotion.nn.attention import attend
from jaxmotion.nn.chain import Stack
from jaxmotion.nn.embedding import TimeEmbedding, rotary_table, rotate
from jaxmotion.nn.feedforward import MLP, tanh_gelu
from jaxmotion.nn.linear import ZEROS, LayerNorm, Linear
from jaxmotion.parallel.sharding import BATCH_AXES, constrain

Positions = Literal["sines", "rotary", "rotary_and_learned", "rotary_grid"]
"""How tokens know where they are.

sines:              sines and cosines added to the tokens, the grid divided by 1.875 (2B).
rotary:             rotated queries and keys, the grid fitted into that of training (5B).
rotary_and_learned: the same, and a table that was trained, for clips of one size only (5B-I2V).
rotary_grid:        rotated queries and keys, the grid as it is (1.5).
"""

SPATIAL_SCALE = 1.875
OFFSET = 2.0
"""What CogVideoX1.5-5B-I2V is told in training and sampling alike."""
WEIGHTS = ("fsdp", "context")
"""Mesh axes over which weights are split beside `tensor`; nothing else uses `context` between the layers."""

SHARDING = (
    (r"stack/.*/(query|key|value|linear_in)/kernel$", P(None, WEIGHTS, "tensor")),
    (r"stack/.*/(query|key|value|linear_in)/bias$", P(None, "tensor")),
    (r"stack/.*/(out|linear_out)/kernel$", P(None, "tensor", WEIGHTS)),
    (r"stack/.*/modulate_\w+/kernel$", P(None, WEIGHTS, None, "tensor")),
    (r"stack/.*/modulate_\w+/bias$", P(None, None, "tensor")),
    (r"(^|/)(text|patches)/kernel$", P(None, WEIGHTS)),
    (r"(^|/)(modulate_out)/kernel$", P(None, None, WEIGHTS)),
    (r"(^|/)out/kernel$", P(WEIGHTS)),
    (r"(^|/)positions$", P(None, WEIGHTS)),
    (r".*", P()),
)


@register()
@dataclasses.dataclass(frozen=True)
class CogVideoXSizes:
    """Sizes of a transformer.

    in_channels: z_t's and those of the condition together.
    patch: (frames, height and width) of latents that make a token.
    text_features, text_length: of the text tokens.
    time_features: width of the time embedding, to which condition vectors are added.
    grid: tokens of the clips of training: (frames, height, width). `rotary` fits other grids into it,
        `rotary_and_learned` has a vector for each of its places, `rotary_grid` cannot exceed its height and width.
    offset: whether there is an embedding of `OFFSET`.
    pad_to: tokens are padded to a multiple of this, because XLA and the attention kernels of TPUs want 128 (1: never).
    remat: which activations are kept for the backward pass (`nn/chain.py`), block by block.
    attention_kernel: as in `nn/attention.py`.
    """

    depth: int = 42
    heads: int = 48
    head_features: int = 64
    in_channels: int = 32
    out_channels: int = 16
    patch: tuple[int, int] = (1, 2)
    text_features: int = 4096
    text_length: int = 226
    time_features: int = 512
    positions: Positions = "rotary_and_learned"
    grid: tuple[int, int, int] = (13, 30, 45)
    offset: bool = False
    pad_to: int = 128
    remat: str = "full"
    attention_kernel: str = "auto"

    @property
    def features(self) -> int:
        """Width of a token."""
        return self.heads * self.head_features

    @property
    def stride(self) -> int:
        """Height and width of the latents must be multiples of this."""
        return self.patch[1]

    def has_places(self, height: int, width: int) -> bool:
        """Returns whether there are positions for the tokens of such a grid."""
        if self.positions == "rotary_and_learned":
            return (height, width) == self.grid[1:]
        return self.positions != "rotary_grid" or (height <= self.grid[1] and width <= self.grid[2])


I2V_5B = CogVideoXSizes()
T2V_5B = dataclasses.replace(I2V_5B, in_channels=16, positions="rotary")
T2V_2B = dataclasses.replace(T2V_5B, depth=30, heads=30, positions="sines")
T2V_5B_V1_5 = dataclasses.replace(T2V_5B, patch=(2, 2), positions="rotary_grid", grid=(11, 150, 150))
I2V_5B_V1_5 = dataclasses.replace(T2V_5B_V1_5, in_channels=32, offset=True)
PUBLIC = {
    "CogVideoX-2b": T2V_2B,
    "CogVideoX-5b": T2V_5B,
    "CogVideoX-5b-I2V": I2V_5B,
    "CogVideoX1.5-5B": T2V_5B_V1_5,
    "CogVideoX1.5-5B-I2V": I2V_5B_V1_5,
}
"""The sizes of the public weights by their names at `THUDM/`."""


class CogVideoX(nn.Module):
    """Predicts from z_t, t and the condition, in the precision of z_t and the parameters."""

    SHARDING: ClassVar = SHARDING
    sizes: CogVideoXSizes

    @nn.compact
    def __call__(
        self, zt: Float[Array, "B T h w C"], t: Num[Array, " B"], condition: Condition
    ) -> Float[Array, "B T h w D"]:
        sizes = self.sizes
        x, text = _join_channels(sizes, zt, condition)
        grid = (x.shape[1] // sizes.patch[0], x.shape[2] // sizes.patch[1], x.shape[3] // sizes.patch[1])
        time = self._time(t, condition)

        frames, side = sizes.patch
        x = rearrange(x, "B (T p) (h q) (w r) C -> B (T h w) (C p q r)", p=frames, q=side, r=side)
        image = Linear(sizes.features, name="patches")(x)
        x = jnp.concatenate([Linear(sizes.features, name="text")(text).astype(image.dtype), image], axis=1)
        x = self._add_positions(x, grid)
        length = x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, -length % sizes.pad_to), (0, 0)))

        texts = text.shape[1]
        block = partial(Block, sizes.heads, texts, length, sizes.attention_kernel)
        rotations = _rotations(sizes, grid, texts, x.shape[1])
        x = Stack(block, sizes.depth, sizes.remat, name="stack")(x, time, *rotations)

        x = LayerNorm(name="norm_blocks")(x[:, texts:length])
        shift, scale = _parts(Linear((2, sizes.features), kernel_init=ZEROS, name="modulate_out"), time)
        x = LayerNorm(name="norm_out")(x) * (1 + scale).astype(x.dtype) + shift.astype(x.dtype)
        x = Linear(sizes.out_channels * frames * side**2, kernel_init=ZEROS, name="out")(x)
        T, h, w = grid
        return rearrange(x, "B (T h w) (C p q r) -> B (T p) (h q) (w r) C", T=T, h=h, w=w, p=frames, q=side, r=side)

    def _time(self, t: Num[Array, " B"], condition: Condition) -> Float[Array, "B E"]:
        """The embedding of the time, with everything that is added to it; in float32."""
        sizes = self.sizes
        time = TimeEmbedding(sizes.features, sizes.time_features, name="time")(t)
        if sizes.offset:
            offset = jnp.full((1,), OFFSET)
            time = time + TimeEmbedding(sizes.time_features, sizes.time_features, name="offset")(offset)
        for vector in condition.vectors:
            time = time + vector.astype(time.dtype)
        return time

    def _add_positions(self, x: Float[Array, "B L C"], grid: tuple[int, int, int]) -> Float[Array, "B L C"]:
        """Tokens with what is added to them for their places; nothing is added to those of the text.

        A learned table is used for the number of frames that it was trained for. For others there are sines, which is
        what diffusers' pipeline does with these weights.
        """
        sizes = self.sizes
        if sizes.positions not in ("sines", "rotary_and_learned"):
            return x
        texts = x.shape[1] - math.prod(grid)
        if sizes.positions == "rotary_and_learned":
            stored = (sizes.text_length + math.prod(sizes.grid), sizes.features)
            learned = self.param("positions", nn.initializers.normal(0.02), stored)
            if not sizes.has_places(*grid[1:]):
                factor = sizes.patch[1]
                raise ValueError(
                    f"Latents are {grid[1] * factor} x {grid[2] * factor}; this network has learned the places of "
                    f"{sizes.grid[1] * factor} x {sizes.grid[2] * factor} and knows no others."
                )
            if texts != sizes.text_length:
                raise ValueError(f"This network needs {sizes.text_length} text tokens, as many as it has places for.")
            if grid == sizes.grid:
                return x + learned.astype(x.dtype)
        return x + jnp.pad(sine_positions(sizes.features, grid), ((texts, 0), (0, 0))).astype(x.dtype)


class Block(nn.Module):
    """Attention of all tokens to all, then a feedforward layer; text and video are shifted, scaled and gated apart.

    Source: the expert transformer block (section 2.2, Fig. 4). The first `texts` tokens are text, those from `length`
    on are padding. Gates start at 0, as in DiT (arXiv:2212.09748, section 3.2), so that a fresh block changes nothing.
    """

    heads: int
    texts: int
    length: int
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S C"], time: Float[Array, "B E"], *rotations: Float[Array, "S D"]
    ) -> Float[Array, "B S C"]:
        x = constrain(x, BATCH_AXES, "context", None)
        h, gate = self._modulate("attention", x, time)
        x = x + gate * RotaryAttention(self.heads, self.length, self.kernel, name="attention")(h, *rotations)
        h, gate = self._modulate("mlp", x, time)
        return x + gate * MLP(4 * x.shape[-1], tanh_gelu, name="mlp")(h)

    def _modulate(self, part: str, x: Array, time: Array) -> tuple[Array, Array]:
        """The part's input, normed, scaled and shifted by the time, and the gate of its result."""
        linear = Linear((6, x.shape[-1]), kernel_init=ZEROS, name=f"modulate_{part}")
        parts = _parts(linear, time)
        is_text = (jnp.arange(x.shape[1]) < self.texts)[:, None]
        pairs = zip(parts[3:], parts[:3], strict=True)
        shift, scale, gate = (jnp.where(is_text, text, video).astype(x.dtype) for text, video in pairs)
        return LayerNorm(name=f"norm_{part}")(x) * (1 + scale) + shift, gate


class RotaryAttention(nn.Module):
    """Multi-head self-attention with normed and then, where there are tables, rotated queries and keys."""

    heads: int
    length: int
    kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "B S C"], *rotations: Float[Array, "S D"]) -> Float[Array, "B S C"]:
        def project(name: str) -> Float[Array, "B S H D"]:
            y = Linear(x.shape[-1], name=name)(x)
            return constrain(y.reshape(*x.shape[:2], self.heads, -1), BATCH_AXES, None, ("context", "tensor"), None)

        def turned(name: str) -> Float[Array, "B S H D"]:
            y = LayerNorm(1e-6, name=f"norm_{name}")(project(name))
            return rotate(y, *rotations) if rotations else y

        y = attend(turned("query"), turned("key"), project("value"), kernel=self.kernel, length=self.length)
        return Linear(x.shape[-1], name="out")(y.reshape(x.shape))


def sine_positions(features: int, grid: tuple[int, int, int]) -> Float[Array, "N features"]:
    """For each token of a grid (frames, height, width): a quarter for its frame, then its column, then its row.

    Source: the code of CogVideoX-2B; sines first, then cosines, of each; heights and widths over 1.875.
    """
    T, h, w = grid
    time = _sines(features // 4, np.arange(T))
    rows, columns = (_sines(features * 3 // 8, np.arange(size) / SPATIAL_SCALE) for size in (h, w))
    return _over_grid(grid, time=time, columns=columns, rows=rows)


def fitted_grid(
    size: tuple[int, int], base: tuple[int, int]
) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " w"]]:
    """Returns the places of a grid's rows and columns on that of training: the whole grid, centred, as large as fits.

    Source: the code of CogVideoX (`get_resize_crop_region_for_grid`).
    """
    (h, w), (H, W) = size, base
    fitted = (H, round(H / h * w)) if h / w > H / W else (round(W / w * h), W)
    starts = [round((whole - part) / 2) for whole, part in zip(base, fitted, strict=True)]
    rows, columns = (
        np.linspace(start, (start + part) * (count - 1) / count, count)
        for start, part, count in zip(starts, fitted, size, strict=True)
    )
    return rows, columns


def _rotations(sizes: CogVideoXSizes, grid: tuple[int, int, int], texts: int, total: int) -> tuple[Array, ...]:
    """Cosines and sines for all tokens [total D]; text and padding are not turned. Nothing for `sines`."""
    if sizes.positions == "sines":
        return ()
    T, h, w = grid
    if sizes.positions == "rotary_grid":
        if not sizes.has_places(h, w):
            raise ValueError(
                f"Clips of {h} x {w} tokens are larger than this network's {sizes.grid[1]} x {sizes.grid[2]}."
            )
        rows, columns = np.arange(h), np.arange(w)
    else:
        rows, columns = fitted_grid((h, w), sizes.grid[1:])
    features = sizes.head_features
    tables = zip(
        rotary_table(np.arange(T), features // 4),
        rotary_table(rows, features * 3 // 8),
        rotary_table(columns, features * 3 // 8),
        (1.0, 0.0),
        strict=True,
    )
    rotations = []
    for time, row, column, unturned in tables:
        table = _over_grid(grid, time=time, rows=row, columns=column)
        around = ((texts, total - texts - table.shape[0]), (0, 0))
        rotations.append(jnp.pad(table, around, constant_values=unturned))
    return tuple(rotations)


def _over_grid(grid: tuple[int, int, int], **tables: Float[np.ndarray, "S D"]) -> Float[Array, "N D"]:
    """Tables for frames (`time`), `rows` and `columns`, side by side in the order given, for every token of a grid.

    The small tables are constants of the program; their product is made by it.
    """
    T, h, w = grid
    patterns = {"time": "T D -> (T h w) D", "rows": "h D -> (T h w) D", "columns": "w D -> (T h w) D"}
    sizes = {"time": {"h": h, "w": w}, "rows": {"T": T, "w": w}, "columns": {"T": T, "h": h}}
    parts = [repeat(jnp.asarray(table), patterns[name], **sizes[name]) for name, table in tables.items()]
    return jnp.concatenate(parts, axis=-1)


def _sines(features: int, positions: Num[np.ndarray, " S"]) -> Float[np.ndarray, "S features"]:
    angles = positions[:, None] / 10000.0 ** (np.arange(features // 2) / (features / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _parts(linear: Linear, time: Float[Array, "B E"]) -> tuple[Float[Array, "B 1 C"], ...]:
    """Returns the modulation by the time, the same for all tokens: shift, scale, ..."""
    return tuple(rearrange(linear(nn.silu(time)), "B P C -> P B 1 C"))


def _join_channels(sizes: CogVideoXSizes, zt: Array, condition: Condition) -> tuple[Array, Array]:
    """z_t with the condition's channels beside it, and the text tokens [B L D]."""
    for channels in condition.channels:
        if channels.shape[:-1] != zt.shape[:-1]:
            raise ValueError(f"Condition channels are {list(channels.shape)}; they need {list(zt.shape[:-1])}.")
    x = jnp.concatenate([zt, *(c.astype(zt.dtype) for c in condition.channels)], axis=-1)
    if x.ndim != 5 or x.shape[-1] != sizes.in_channels:
        raise ValueError(
            f"z_t is {list(zt.shape)} and the condition brings {x.shape[-1] - zt.shape[-1]} channels; "
            f"this network takes [B T h w] and {sizes.in_channels} channels in all."
        )
    frames, side = sizes.patch
    for name, size, factor in zip(("long", "high", "wide"), x.shape[1:4], (frames, side, side), strict=True):
        if size % factor:
            raise ValueError(f"Latents are {size} {name}; this network needs a multiple of {factor}.")
    tokens = condition.tokens.get("text")
    if tokens is None or tokens.ndim != 4 or tokens.shape[1] != 1:
        came = "no" if tokens is None else list(tokens.shape)
        raise ValueError(
            f'The condition brings {came} tokens "text"; this network reads [B 1 L {sizes.text_features}].'
        )
    return x, tokens[:, 0]
