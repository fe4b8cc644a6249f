"""A task small enough to train in a second: two dense layers, a frozen projection, and a part without parameters."""

import dataclasses
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxmotion.parallel.sharding import BATCH_AXES, constrain
from jaxmotion.training.config import TrainConfig

WIDTH, HIDDEN = 16, 32


@dataclasses.dataclass(frozen=True)
class Toy:
    noise: float = 0.1
    hidden: int = HIDDEN

    @property
    def sharding(self):
        return (
            (r"body/.*kernel$", P("fsdp", "tensor")),
            (r"head/kernel$", P("tensor", "fsdp")),
            (r".*", P()),
        )

    def init(self, key):
        body, head, frozen = jax.random.split(key, 3)
        return {
            "body": {
                "kernel": jax.random.normal(body, (WIDTH, self.hidden)) * 0.2,
                "bias": jnp.zeros(self.hidden),
            },
            "head": {"kernel": jax.random.normal(head, (self.hidden, WIDTH)) * 0.2},
            "encoder": {"kernel": jax.random.normal(frozen, (WIDTH, WIDTH)), "table": jnp.arange(3)},
            "codec": {},
        }

    def loss(self, params, batch, key):
        assert params["codec"] == {}
        x = batch["x"].astype(params["body"]["kernel"].dtype)
        noisy = x + self.noise * jax.random.normal(key, x.shape, x.dtype)
        hidden = jnp.tanh(noisy @ params["body"]["kernel"] + params["body"]["bias"])
        hidden = constrain(hidden, BATCH_AXES, "tensor")
        out = hidden @ params["head"]["kernel"]
        loss = jnp.mean(jnp.square((out - x @ params["encoder"]["kernel"]).astype(jnp.float32)))
        return loss, {"size": jnp.mean(jnp.square(out))}


SETTINGS = TrainConfig(
    steps=12,
    batch_size=8,
    learning_rate=3e-2,
    trained=("body", "head"),
    log_every=2,
    save_every=4,
    tensorboard=False,
)


def settings(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def meta(config):
    return {"system": {"name": "toy"}, "train": json.loads(json.dumps(dataclasses.asdict(config)))}


def row(index):
    return {"x": np.random.default_rng(int(index)).normal(size=WIDTH).astype(np.float32)}


def loader(rows=8, share=(0, 1), seed=1):
    """Rows `index::count` of a shuffled, repeating data set, in batches."""
    index, count = share
    data = grain.MapDataset.range(512).shuffle(seed=seed).repeat()[index::count]
    return iter(data.map(row).batch(rows).to_iter_dataset())


def batch(rows=8, seed=0):
    return {"x": np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)}
