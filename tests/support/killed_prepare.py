"""Writes a prepared set of made-up records, slowly, to be killed: python killed_prepare.py FOLDER."""

import sys
import time
from pathlib import Path

import numpy as np

from jaxmotion.data.precompute import shards
from jaxmotion.foundation.entries import CAMERA, IMAGE, MOMENTS, OBJECT, TEXT_FEATURES


def load(index: int) -> dict | None:
    return None if index == 7 else {"id": f"clip {index}", "caption": f"number {index}", "index": index}


def encode(examples: list) -> list[dict]:
    found = []
    for example in examples:
        rng = np.random.default_rng(example["index"])
        time.sleep(0.004)
        found.append(
            {
                MOMENTS: rng.normal(size=(2, 8, 8, 8)).astype(np.float16),
                TEXT_FEATURES: rng.normal(size=(16, 64)).astype(np.float32),
                IMAGE: rng.integers(0, 256, (32, 32, 3), np.uint8),
                OBJECT: np.float32(rng.uniform(1, 10)),
                CAMERA: np.float32(rng.uniform(1, 10)),
                "caption": example["caption"],
            }
        )
    return found


if __name__ == "__main__":
    job = shards.Job(Path(sys.argv[1]), 90, 6, 2, {"made": "up"})
    shards.begin(job)
    shards.write(job, load, encode)
    shards.finish(job)
