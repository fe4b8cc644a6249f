"""Clips for a batch of requests, with a progress bar: compiled once per model and settings, a few clips at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Key, UInt8
from tqdm import tqdm

from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE
from jaxmotion.foundation.types import Array, Batch, Params

PIXELS_AT_ONCE, MOST_AT_ONCE = 2**18, 32
"""Clips sampled together: as many as have this many pixels in one frame each (4 of 256 x 256), and never more."""


Decode = Callable[[Params, Float[Array, "B T h w C"]], Iterator[UInt8[Array, "B T H W 3"]]]
"""(parameters of the system, latents) to pixels, some frames after the others; see `Generator.decode`."""


@runtime_checkable
class Generator(Protocol):
    """A model that makes clips, such as `VideoDiffusion`.

    It is a key of the cache of compiled functions, so its class hashes by identity: a dataclass with `eq=False`.
    """

    def sample_latents(
        self,
        params: Params,
        batch: Batch,
        keys: Key[Array, " B"],
        sampling: Sampling,
        on_step: Callable[[int], None] | None = None,
    ) -> Float[Array, "B T h w C"]:
        """The latents of one clip for each row of the batch; `on_step` is called on the host after every step."""
        ...

    def decode(self, params: Params, z0: Float[Array, "B T h w C"]) -> Iterator[UInt8[Array, "B T H W 3"]]:
        """The pixels of these latents, some frames after the others. It compiles what it needs by itself."""
        ...


def generate(
    system: Generator,
    params: Params,
    batch: Mapping[str, Array | np.ndarray],
    keys: Key[Array, " N"],
    sampling: Sampling,
    *,
    at_once: int | None = None,
    decode: Decode | None = None,
) -> UInt8[np.ndarray, "N T H W 3"]:
    """One clip for each row of a batch.

    Args:
        system: the model; the same object is compiled once for the same `sampling` and batch size.
        params: its parameters.
        batch: the entries that sampling asks for, [N ...] each; `image` (uint8 [N H W 3]) is one of them.
        keys: one for each clip.
        sampling: sampler, steps, guidance, initial noise.
        at_once: how many clips are sampled together. The last few are filled up with copies that are thrown away.
        decode: what makes pixels of latents; None: the system itself.

    Raises:
        ValueError: no clip is asked for, or the entries differ in length.
    """
    lengths = {name: len(value) for name, value in {**batch, "keys": keys}.items()}
    count = len(keys)
    if count == 0 or set(lengths.values()) != {count}:
        raise ValueError(f"A batch needs at least one row and the same number of rows in all entries; got {lengths}.")
    height, width = np.shape(batch[IMAGE])[1:3]
    if at_once is None:
        at_once = min(MOST_AT_ONCE, max(1, PIXELS_AT_ONCE // (height * width)))
    at_once = min(at_once, count)
    compiled = _compile(system, sampling)
    starts = range(0, count, at_once)
    decode, clips = decode or system.decode, []
    with tqdm(
        total=len(starts) * sampling.sampler.steps, desc="sampling", unit="step", leave=False, disable=None
    ) as compiled.bar:
        for start in starts:
            rows = np.minimum(np.arange(start, start + at_once), count - 1)
            part = {name: value[rows] for name, value in batch.items()}
            latents = compiled.sample(params, part, keys[rows])
            pieces = [np.asarray(piece) for piece in decode(params, latents)]
            clips.append(np.concatenate(pieces, axis=1))
            jax.effects_barrier()  # the bar is up to date before it closes
    return np.concatenate(clips)[:count]


class _Compiled:
    """One compiled sampling function and the bar it moves while it runs."""

    def __init__(self, system: Generator, sampling: Sampling):
        self.bar: tqdm | None = None

        def on_step(step: int) -> None:
            if self.bar is not None:
                self.bar.update(1)

        def sample(params: Params, batch: Batch, keys: Key[Array, " B"]) -> Array:
            return system.sample_latents(params, batch, keys, sampling, on_step=on_step)

        self.sample = jax.jit(sample)


@functools.lru_cache(maxsize=8)
def _compile(system: Generator, sampling: Sampling) -> _Compiled:
    return _Compiled(system, sampling)
