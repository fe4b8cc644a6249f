"""Programs that take a few rows of a batch at a time, on 8 fake devices; prints what moves between them as JSON."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxmotion.models.autoencoder import KLCodec, KLSizes
from jaxmotion.nn.attention import attend
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import MeshSizes, make_mesh
from jaxmotion.systems.motionstone.intensity import INTENSITY, ScalarScore

COLLECTIVE = r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
CODEC = KLCodec(KLSizes(features=(4, 8), blocks_per_stage=1, groups=2), frames_at_once=3)  # of 16 frames per device
EDGES = tuple(np.linspace(0.0, 1.0, 10).tolist())


def score(kind: str):
    """A score of the clips of a batch."""
    measure = ScalarScore(kind, EDGES).measured_entries()[INTENSITY]
    return lambda clips: measure({}, {"video": clips})


def attention(kernel: str):
    """Attention of tokens to others of the same number."""
    return lambda x: attend(x, 2 * x, x + 1, kernel=kernel)


def tokens(rows: int, heads: int) -> np.ndarray:
    """Tokens whose number is no multiple of 128."""
    return np.random.default_rng(0).normal(size=(rows, 140, heads, 8)).astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(0)
    params = CODEC.init(jax.random.key(0))
    clips = rng.integers(0, 256, (16, 4, 16, 16, 3), np.uint8)
    pixels = clips.astype(np.float32) / 127.5 - 1
    alone = jnp.arange(4.0)
    cases = {
        "lax.map": (lambda x: jax.lax.map(lambda row: row * alone, x), pixels[:, 0, 0, :4, 0]),  # how it must not be
        "encode": (lambda x: CODEC.encode(params, x), pixels),
        "decode": (lambda z: CODEC.decode(params, z), rng.normal(size=(16, 4, 4, 4, 4)).astype(np.float32)),
        "ssim": (score("ssim"), clips),
        "feature_difference": (score("feature_difference"), clips),
        "xla_chunked": (attention("xla_chunked"), tokens(4, 4)),
        "splash": (attention("splash"), tokens(4, 4)),
        "splash, uneven rows": (attention("splash"), tokens(3, 4)),
        "splash, uneven heads": (attention("splash"), tokens(4, 3)),
    }
    mesh = make_mesh(MeshSizes(data=2, fsdp=2, tensor=2))
    found = {}
    for name, (function, given) in cases.items():
        reference = np.asarray(jax.jit(function)(given))
        with jax.set_mesh(mesh):
            even = len(given) % 4 == 0
            placed = jax.device_put(
                given, sharding.batch_sharding(mesh) if even else sharding.replicated_sharding(mesh)
            )
            compiled = jax.jit(function).lower(placed).compile()
            difference = float(np.abs(np.asarray(compiled(placed)) - reference).max() / np.abs(reference).max())
        found[name] = {"collectives": re.findall(COLLECTIVE, compiled.as_text()), "difference": difference}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
