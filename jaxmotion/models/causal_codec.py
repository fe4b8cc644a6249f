"""The causal autoencoder as a codec: chunk by chunk over time, tile by tile over space, as a stream."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.types import Params
from jaxmotion.models.autoencoder import check_pixels
from jaxmotion.models.autoencoder3d import FULL, SHARDING, Autoencoder3D, Autoencoder3DSizes
from jaxmotion.parallel import sharding

FRAMES_AT_ONCE, LATENTS_AT_ONCE = 8, 2
"""How many frames, or latents, make a chunk."""


def chunks(total: int, size: int) -> list[slice]:
    """The chunks of a clip: `size` frames each, and the first one takes what is left over."""
    first = total if total < size else size + total % size
    return [slice(0, first), *(slice(start, start + size) for start in range(first, total, size))]


@register()
@dataclasses.dataclass(frozen=True)
class Tiles:
    """Overlapping rectangles in which frames are encoded and decoded when memory is short, blended where they meet.

    height, width: of a tile, in pixels. Frames that are no larger are not cut.
    overlap: the part of a tile's height and width that it shares with the next.

    Source: diffusers' tiling; the sizes are its own for 480 x 720.
    """

    height: int = 240
    width: int = 360
    overlap: tuple[float, float] = (1 / 6, 1 / 5)

    def cut(self, height: int, width: int) -> bool:
        """Returns whether frames of this size in pixels are cut."""
        return height > self.height or width > self.width


@register()
@dataclasses.dataclass(frozen=True)
class CausalCodec:
    """CogVideoX's autoencoder as a codec: T pixel frames are ceil(T / 4) latents, best 4 n + 1 frames.

    tiles: how frames are cut by `stream` and `encode_tiled`; None: not at all.
    clips_at_once: how many clips pass the network together on each device, to bound the memory; 0 is all of them.
    """

    sizes: Autoencoder3DSizes = FULL
    tiles: Tiles | None = Tiles()
    clips_at_once: int = 0

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.sizes.latent_channels

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent in height and width."""
        return 2 ** (len(self.sizes.features) - 1)

    def num_latent_frames(self, frames: int) -> int:
        """Returns the number of latents of so many frames.

        Raises:
            ValueError: so many frames would not come back.
        """
        ratio = 2**self.sizes.halvings
        if (frames - 1) % ratio:
            below, above = (frames - 1) // ratio * ratio + 1, -(-(frames - 1) // ratio) * ratio + 1
            raise ValueError(f"Clips have {frames} frames; this codec needs {ratio} n + 1, e.g. {below} or {above}.")
        return (frames - 1) // ratio + 1

    @property
    def sharding(self) -> tuple[tuple[str, P], ...]:
        """Sharding rules of its parameters."""
        return SHARDING

    def init(self, key: Array) -> Params:
        """Random parameters."""
        return Autoencoder3D(self.sizes).init(
            key, jnp.zeros((1, 1, self.spatial_compression, self.spatial_compression, 3))
        )["params"]

    def encode(
        self, params: Params, x: Float[Array, "B T H W 3"], key: Array | None = None
    ) -> Float[Array, "B t h w C"]:
        """Scaled latents of pixels: their mean, or a sample when a key is given."""
        return self.sample_moments(self.moments(params, x), key)

    def moments(self, params: Params, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w D"]:
        """Mean and logarithm of the variance of unscaled latents, side by side."""
        check_pixels(x, self.spatial_compression)
        return sharding.map_rows(lambda x: self._in_chunks("encode", params, x, FRAMES_AT_ONCE), x, self.clips_at_once)

    def sample_moments(self, moments: Float[Array, "B t h w D"], key: Array | None = None) -> Float[Array, "B t h w C"]:
        """Scaled latents of these moments: their mean, or a sample when a key is given."""
        z, log_variance = jnp.split(moments, 2, axis=-1)
        if key is not None:
            deviation = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
            z = z + deviation * jax.random.normal(key, z.shape, z.dtype)
        return z * self.sizes.scaling

    def decode(self, params: Params, z: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Pixels of scaled latents."""
        z = z / self.sizes.scaling
        return sharding.map_rows(lambda z: self._in_chunks("decode", params, z, LATENTS_AT_ONCE), z, self.clips_at_once)

    def stream(self, params: Params, z: Float[Array, "B t h w C"]) -> Iterator[Float[Array, "B T H W 3"]]:
        """Pixels of scaled latents, chunk by chunk, in the type of the parameters.

        At no time is more than one chunk of one tile in the memory of the device, with what its convolutions remember
        of the chunk before; what those of the other tiles remember waits in the memory of the host.
        """
        z = jnp.asarray(z) / self.sizes.scaling
        dtype = jax.tree.leaves(params)[0].dtype
        yield from self._decode_tiles("decode", params, z.astype(dtype), LATENTS_AT_ONCE)

    def encode_tiled(self, params: Params, x: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w D"]:
        """The moments of pixels, chunk by chunk and tile by tile. Not for use inside `jax.jit`."""
        check_pixels(x, self.spatial_compression)
        return jnp.concatenate(list(self._decode_tiles("encode", params, x, FRAMES_AT_ONCE)), axis=1)

    def _in_chunks(self, method: str, params: Params, x: Array, size: int) -> Array:
        """One chunk after the other, each seeing the tails of the one before; the equal ones in one scan."""
        first, *rest = chunks(x.shape[1], size)
        y, tails = _chunk(self.sizes, method, params, x[:, first], {})
        if not rest:
            return y
        others = rearrange(x[:, first.stop :], "B (n s) ... -> n B s ...", s=size)

        def step(tails: dict[str, Array], part: Array) -> tuple[dict[str, Array], Array]:
            made, after = _chunk(self.sizes, method, params, part, tails)
            return after, made

        _, after = jax.lax.scan(step, tails, others)
        return jnp.concatenate([y, rearrange(after, "n B s ... -> B (n s) ...")], axis=1)

    def _decode_tiles(self, method: str, params: Params, x: Array, size: int) -> Iterator[Array]:
        """The chunks that a network makes of x, each put together from tiles that do not see each other."""
        factor = self.spatial_compression
        height, width = x.shape[2:4] if method == "encode" else (factor * x.shape[2], factor * x.shape[3])
        tiles = self.tiles if self.tiles and self.tiles.cut(height, width) else Tiles(height, width, (0.0, 0.0))
        per_input, per_output = (1, factor) if method == "encode" else (factor, 1)
        sides = tiles.height, tiles.width
        into = [side // per_input for side in sides]
        steps = [int(side * (1 - part)) for side, part in zip(into, tiles.overlap, strict=True)]
        out = [side // per_output for side in sides]
        extents = [int(side * part) for side, part in zip(out, tiles.overlap, strict=True)]
        corners = [range(0, length, step) for length, step in zip(x.shape[2:4], steps, strict=True)]
        tails: dict[tuple[int, ...], dict[str, Array]] = {corner: {} for corner in itertools.product(*corners)}
        for part in chunks(x.shape[1], size):
            rows: list[list[Array]] = []
            for top in corners[0]:
                row: list[Array] = []
                for left in corners[1]:
                    piece = x[:, part, top : top + into[0], left : left + into[1]]
                    tile, after = _compiled_chunk(self.sizes, method, params, piece, tails[top, left])
                    tails[top, left] = after if len(tails) == 1 else jax.device_get(after)
                    tile = _blend(rows[-1][len(row)], tile, extents[0], axis=2) if rows else tile
                    row.append(_blend(row[-1], tile, extents[1], axis=3) if row else tile)
                rows.append(row)
            keep = [side - extent for side, extent in zip(out, extents, strict=True)]
            whole = [[tile[:, :, : keep[0], : keep[1]] for tile in row] for row in rows]
            yield jnp.concatenate([jnp.concatenate(row, axis=3) for row in whole], axis=2)


def _chunk(
    sizes: Autoencoder3DSizes, method: str, params: Params, x: Array, tails: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
    return Autoencoder3D(sizes).apply({"params": params}, x, tails, method=method)  # pyright: ignore


_compiled_chunk = jax.jit(_chunk, static_argnums=(0, 1))


def _blend(before: Array, tile: Array, extent: int, axis: int) -> Array:
    """The tile, whose first rows (or columns) fade in over the last ones of the tile before."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if not extent:
        return tile
    shape = [1] * tile.ndim
    shape[axis] = extent
    share = (jnp.arange(extent, dtype=tile.dtype) / extent).reshape(shape)
    last = jax.lax.slice_in_dim(before, before.shape[axis] - extent, before.shape[axis], axis=axis)
    first, rest = jnp.split(tile, [extent], axis=axis)
    return jnp.concatenate([last * (1 - share) + first * share, rest], axis=axis)
