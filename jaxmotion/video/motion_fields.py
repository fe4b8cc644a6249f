"""Motion features for a small network in place of pixels: displacement of patches and residual of a fitted camera.

Frames become one field per step: the speed of patches around 8 x 8 pixel cells (`video.patch_matching`), its residual
beside a camera that is fitted to all of them, and how well each of three hypotheses fits the pictures: the patch's own
motion, the camera's, and none. All speeds are in diagonals per second, on the scale of the score, so neither the size
of the pictures nor the frame rate plays a part.

Not specified in the paper; we use: all of these features. The paper's estimator reads pixels (`Pixels`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxmotion.video import motion_scale as unit
from jaxmotion.video import patch_matching as matching
from jaxmotion.video.luma import LUMA

CHANNELS = 20
_MOVES = slice(14, 18)
"""The channels that hold the camera's pan, tilt, zoom and roll, the same in every cell."""
_SPREAD = 0.2  # standard deviation of the grey levels of a clip, after
_LEAST_SPREAD = 0.03  # before; what has less is not stretched further
_FIT_ROUNDS = 6
_FIRST_SCALE, _LAST_SCALE = 0.02, 0.0015  # diagonals: residuals much larger do not count in a fit
_TELLING = 2e-4  # texture at which a patch counts half
_FARTHEST = 0.35  # diagonals in one step; what is found beyond is a mistake


def motion_fields(video: UInt8[Array, "B T H W 3"], seconds: Float[Array, "B T-1"]) -> Float[Array, "B T-1 h w C"]:
    """Returns the motion fields of clips, `CHANNELS` values for every cell and step.

    Args:
        video: clips whose sides are multiples of 8 pixels.
        seconds: from each frame to the next.
    """
    batch, frames, height, width, _ = video.shape
    grey = _grey(video)
    before, after = (part.reshape(-1, height, width) for part in (grey[:, :-1], grey[:, 1:]))
    found, level = matching.match(before, after)
    diagonal = float(np.hypot(height, width))
    x, y = (jnp.asarray(axis / diagonal) for axis in matching.cells(height, width))
    flow = _clip_length(found.flow / diagonal)
    trust = found.texture / (found.texture + _TELLING) / (1 + (found.mismatch / 0.05) ** 2) + 1e-4
    camera, inliers = fit_camera(_clip_length(found.smooth / diagonal), trust, x, y)
    fitted = _clip_length(camera_flow(camera, x, y))
    stories = [found.mismatch, *(matching.mismatch_of(level, tried * diagonal) for tried in (fitted, 0 * flow))]
    rate = 1 / seconds.reshape(-1)[:, None, None]
    left = flow - fitted
    moves = jnp.stack([camera[:, 0, 0], camera[:, 0, 1], *_turns(camera)], -1)
    everywhere = jnp.ones_like(found.mismatch)
    channels = [
        *_direction_and_length(flow * rate[..., None]),
        *_direction_and_length(left * rate[..., None]),
        *_direction_and_length((found.smooth / diagonal - fitted) * rate[..., None]),
        *(jnp.log(story + 0.004) + 4 for story in stories),
        jnp.log(found.texture + 1e-5) / 2 + 4,
        inliers * 2 - 1,
        *(_signed_log_scale(moves[:, i] * rate[:, 0, 0])[:, None, None] * everywhere for i in range(4)),
        (jnp.hypot(x, y) * 4 - 1) * everywhere,
        4 * y * everywhere,
    ]
    fields = jnp.stack(channels, -1)
    return jax.lax.stop_gradient(fields.reshape(batch, frames - 1, *fields.shape[1:]))


def camera_moves(fields: Float[Array, "B T-1 h w C"]) -> Float[Array, "B 4"]:
    """Returns the corners' speeds by the fitted pan, tilt, zoom and roll, diagonals per second, mean over time."""
    scaled = jnp.abs(fields[:, :, 0, 0, _MOVES]) / 2
    return (unit.V0 * jnp.expm1(scaled * np.log1p(unit.FASTEST / unit.V0))).mean(1)


def fit_camera(
    flow: Float[Array, "N h w 2"], trust: Float[Array, "N h w"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> tuple[Float[Array, "N 3 2"], Float[Array, "N h w"]]:
    """Fits the affine motion that most of the trusted patches follow; returns also how much each follows it (0..1).

    Iteratively re-weighted least squares with Geman and McClure's weights, their scale shrinking from round to round.

    Returns:
        camera [N 3 2]: flow = camera[0] + camera[1] x + camera[2] y, everything in diagonals.
    """
    count = flow.shape[0]
    basis = jnp.stack([jnp.ones_like(x), x, y], -1).reshape(-1, 3)
    target, trusted = flow.reshape(count, -1, 2), trust.reshape(count, -1)
    ridge = jnp.diag(jnp.asarray([1e-6, 1e-3, 1e-3])) * trusted.mean(-1)[:, None, None] * len(basis) * 0.1

    def fit(weight: Array) -> Array:
        weighted = basis[None] * weight[..., None]
        normal = jnp.einsum("npi,pj->nij", weighted, basis) + ridge + 1e-9 * jnp.eye(3)
        return _solve(normal, jnp.einsum("npi,npc->nic", weighted, target))

    weight = trusted
    camera = fit(weight)
    closeness = jnp.ones_like(trusted)
    for scale in np.geomspace(_FIRST_SCALE, _LAST_SCALE, _FIT_ROUNDS):
        left = target - jnp.einsum("pi,nic->npc", basis, camera)
        closeness = 1 / (1 + (left**2).sum(-1) / scale**2) ** 2
        camera = fit(trusted * closeness)
    return camera, closeness.reshape(trust.shape)


def camera_flow(camera: Float[Array, "N 3 2"], x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Array:
    """Returns [N h w 2]: the displacement of every cell by the camera, in diagonals."""
    return jnp.einsum("hwi,nic->nhwc", jnp.stack([jnp.ones_like(x), x, y], -1), camera)


def _solve(matrix: Float[Array, "N 3 3"], right: Float[Array, "N 3 2"]) -> Float[Array, "N 3 2"]:
    """Solves 3 x 3 systems by their cofactors, which every device does at once."""
    a, b, c = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    cofactors = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -1)
    return cofactors @ right / (a * jnp.cross(b, c)).sum(-1)[:, None, None]


def _grey(video: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W"]:
    """Returns grey levels with the same spread in all clips, as far as that does not magnify grain."""
    grey = jnp.einsum("...c,c->...", video.astype(jnp.float32) / 255, jnp.asarray(LUMA))
    spread = jnp.std(grey, axis=(1, 2, 3), keepdims=True)
    return grey * (_SPREAD / jnp.maximum(spread, _LEAST_SPREAD))


def _clip_length(flow: Array) -> Array:
    length = jnp.linalg.norm(flow, axis=-1, keepdims=True)
    return flow * jnp.minimum(1, _FARTHEST / jnp.maximum(length, 1e-9))


def _turns(camera: Float[Array, "N 3 2"]) -> tuple[Array, Array]:
    """Returns the corners' displacement by zoom and roll, in diagonals: half of the growth and of the angle."""
    return (camera[:, 1, 0] + camera[:, 2, 1]) / 4, (camera[:, 1, 1] - camera[:, 2, 0]) / 4


def _log_scale(speed: Array) -> Array:
    """Maps speeds to 0..1 and beyond on the score's logarithmic scale, without clipping."""
    return jnp.log1p(speed / unit.V0) / np.log1p(unit.FASTEST / unit.V0)


def _signed_log_scale(speed: Array) -> Array:
    return jnp.sign(speed) * _log_scale(jnp.abs(speed)) * 2


def _direction_and_length(speed: Float[Array, "N h w 2"]) -> tuple[Array, Array, Array]:
    """Returns right, down and length, the length on the score's scale."""
    length = jnp.linalg.norm(speed, axis=-1)
    scaled = _log_scale(length) * 2
    return (*(scaled * speed[..., i] / (length + 1e-6) for i in range(2)), scaled - 0.5)
