"""Data sources: odd entries and several texts reach the batch, and loader workers import no JAX."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jaxmotion.data.collate import Collate
from jaxmotion.data.loader import batches
from jaxmotion.data.source import Buckets, DataConfig, DataSource, Shape
from jaxmotion.data.tokenize import HashTokenizer

TOKENIZE = HashTokenizer(64, 8)


class Config(DataConfig):
    frames, fps, size = 2, 8.0, (4, 6)


class Labelled(DataSource):
    """Clips with a pose, a caption and two labels, as a grounded system reads them."""

    entries = ("video", "fps", "pose")

    def __init__(self, config: DataConfig):
        super().__init__(config)
        self.texts = {"text": "caption", "label_tokens": "labels"}

    def __len__(self) -> int:
        return 6

    def load(self, index: int, rng: np.random.Generator | None = None) -> dict:
        pose = np.full((2, 3), index, np.float32)
        texts = {"caption": f"clip {index}", "labels": [f"cat {index}", ""]}
        return {
            "video": np.zeros((2, 4, 6, 3), np.uint8),
            "fps": np.float32(8),
            "pose": pose,
            "id": str(index),
            **texts,
        }


def test_every_entry_and_every_text_is_in_the_batch() -> None:
    batch = next(batches(Labelled(Config()), batch_size=3, seed=0, tokenize=TOKENIZE))
    assert set(batch) == {"video", "fps", "pose", "text", "label_tokens"}
    clips = batch["pose"][:, 0, 0].astype(int)
    np.testing.assert_array_equal(batch["text"], TOKENIZE([f"clip {clip}" for clip in clips]))
    assert batch["label_tokens"].shape == (3, 2, 8)
    np.testing.assert_array_equal(batch["label_tokens"][:, 0], TOKENIZE([f"cat {clip}" for clip in clips]))


def test_lists_of_texts_that_differ_in_length_are_refused() -> None:
    with pytest.raises(ValueError, match="pad the lists"):
        Collate((), {"tokens": "labels"}, TOKENIZE)([{"labels": ["a"]}, {"labels": ["a", "b"]}])


def test_what_a_source_inherits() -> None:
    source = Labelled(Config())
    assert source.shapes == (Shape(2, 4, 6),)
    assert source.parts == (source,)
    assert [example["id"] for example in source] == [source[i]["id"] for i in range(6)] == list("012345")
    with pytest.raises(IndexError, match="Clip 6 is asked for; there are 6"):
        source[6]
    both = Buckets([source, source])
    assert [example["id"] for example in both] == list("012345012345")
    assert both.texts == source.texts


def test_loader_workers_import_no_jax_of_ours() -> None:
    """Grain itself imports JAX; the modules that load and collate clips do not."""
    modules = ("clips", "cluttered_scenes", "collate", "compared_pairs", "precomputed", "synthetic_clips", "tokenize")
    program = "".join(f"import jaxmotion.data.{name}\n" for name in modules)
    program += "import sys; assert 'jax' not in sys.modules, 'JAX was imported'"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
