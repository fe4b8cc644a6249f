"""Point tracking by RAFT: dense flow, sampled on the grid of `tracks`. Slower than Lucas-Kanade, and better."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxmotion.foundation.types import Params
from jaxmotion.meter.tracks import Tracks, grid_points
from jaxmotion.models import raft
from jaxmotion.weights.formats import BY_NAME, detect
from jaxmotion.weights.rules import to_jax
from jaxmotion.weights.tensor_files import open_tensors

SIZES = {"raft-small": raft.SMALL, "raft-large": raft.LARGE}
LARGEST = 384
"""Pixels of the longer side at which flow is found."""


@dataclasses.dataclass(frozen=True)
class RaftTracks:
    """Tracks points by RAFT's flow, with a forward-backward check."""

    weights: str
    """A checkpoint of RAFT, small or large, as its authors publish it."""
    iterations: int = 12
    """Rounds of looking up."""
    forward_backward_limit: float = 1.5
    """Pixels by which a point may miss its start on the way back."""

    def __call__(self, video: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
        """Tracks the grid through a clip."""
        height, width = video.shape[1:3]
        scale = min(1.0, LARGEST / max(height, width))
        tall, wide = (
            max(2 * raft.SMALLEST, round(side * scale / raft.STRIDE) * raft.STRIDE) for side in (height, width)
        )
        run, params = _load_network(self.weights, self.iterations)
        frames = jax.image.resize(
            jnp.asarray(video, jnp.float32), (len(video), tall, wide, 3), "linear", antialias=True
        )
        start, grid = grid_points(tall, wide)
        ends, valid = [], []
        for t in range(len(video) - 1):
            there, back = (
                np.asarray(run(params, frames[a : a + 1], frames[b : b + 1]))[0] for a, b in ((t, t + 1), (t + 1, t))
            )
            end = start + _sample_flow(there, start)
            home = end + _sample_flow(back, end)
            inside = (end >= 0).all(-1) & (end < [wide, tall]).all(-1)
            ends.append(end)
            valid.append(inside & (np.linalg.norm(home - start, axis=-1) < self.forward_backward_limit))
        factor = np.array([width / wide, height / tall])
        end = np.stack(ends)
        return Tracks(np.broadcast_to(start, end.shape) * factor, end * factor, np.stack(valid), grid)


@functools.lru_cache(maxsize=2)
def _load_network(weights: str, iterations: int) -> tuple[jax.stages.Wrapped, Params]:
    """Loads RAFT; returns the compiled network and its parameters.

    Raises:
        ValueError: the file is no RAFT.
    """
    checkpoint = open_tensors(Path(weights))
    name = detect(checkpoint).name
    if name not in SIZES:
        raise ValueError(f"{weights} is {BY_NAME[name].description}; tracks need a RAFT.")
    network = dataclasses.replace(SIZES[name], iterations=iterations).build()
    side = 2 * raft.SMALLEST
    like = jax.eval_shape(network.init, jax.random.key(0), *(jnp.zeros((1, side, side, 3)),) * 2)["params"]
    params = to_jax(BY_NAME[name].parts["flow"], checkpoint, like, BY_NAME[name].ignored)
    return jax.jit(lambda params, first, second: network.apply({"params": params}, first, second)), params


def _sample_flow(flow: Float[np.ndarray, "H W 2"], at: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """Returns the flow of the pixels that these points lie in."""
    height, width = flow.shape[:2]
    x = np.clip(at[:, 0].astype(int), 0, width - 1)
    y = np.clip(at[:, 1].astype(int), 0, height - 1)
    return flow[y, x]
