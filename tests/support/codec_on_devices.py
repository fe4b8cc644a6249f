"""CogVideoX's autoencoder, small, on 8 clips over 4 fake devices, one clip at a time; prints what became of it."""

import json
import re

import jax
import numpy as np

from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.parallel import sharding
from jaxmotion.parallel.mesh import MeshSizes, make_mesh

CODEC = CausalCodec(Autoencoder3DSizes(4, (4, 4, 8), halvings=2, blocks_per_stage=1, groups=2), clips_at_once=1)


def main() -> None:
    params = CODEC.init(jax.random.key(0))
    clips = np.random.default_rng(0).uniform(-1, 1, (8, 5, 32, 32, 3)).astype(np.float32)
    alone = np.asarray(jax.jit(CODEC.moments)(params, clips))
    mesh = make_mesh(MeshSizes(data=2, fsdp=2))
    placed = jax.device_put(params, sharding.shardings(params, CODEC.sharding, mesh))
    with jax.set_mesh(mesh):
        given = jax.device_put(clips, sharding.batch_sharding(mesh))
        compiled = jax.jit(CODEC.moments).lower(placed, given).compile()
        text, found = compiled.as_text(), np.asarray(compiled(placed, given))
    convolved = [tuple(map(int, shape.split(","))) for shape in re.findall(r"= f32\[([\d,]+)\]\S* convolution", text)]
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed))
    said = {
        "clips_in_a_convolution": sorted({shape[0] for shape in convolved if len(shape) == 5}),
        "trips": sorted({int(count) for count in re.findall(r"trip_count\W+n\W+(\d+)", text)}),
        "moved_activations": len(re.findall(r" (?:all-reduce|all-to-all|collective-permute)\(", text)),
        "share_of_the_weights": held / sum(leaf.nbytes for leaf in jax.tree.leaves(placed)),
        "difference": float(np.abs(found - alone).max() / np.abs(alone).max()),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
