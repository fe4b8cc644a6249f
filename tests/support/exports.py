"""Small systems with random parameters, and what was made of them: shared by the tests of the export."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from PIL import Image

from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.diffusion.schedule import linear
from jaxmotion.foundation.entries import IMAGE, TEXT
from jaxmotion.models import autoencoder, clip, dinov2
from jaxmotion.models.unet import UNetSizes
from jaxmotion.runs.trained import open_run
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import LEVEL, FrameMap, LevelMap
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.systems.text import TextTokens
from jaxmotion.video.images import load_photo

TOKENS = HashTokenizer(clip.TINY.vocabulary, clip.TINY.length)
EDGES = tuple(np.linspace(0.1, 0.8, 9).tolist())

PLAIN: dict[str, Conditioner] = {"reference": ReferenceLatent(), "text": TextTokens(clip.TINY)}
ALL: dict[str, Conditioner] = {
    **PLAIN,
    "frame": FrameMap(),
    "level": LevelMap(edges=EDGES, scale=0.5),
    "content": ContentTokens(dataclasses.replace(dinov2.TINY, image_size=24, registers=2), features=40),
    "text": ReweightedText(TextTokens(clip.TINY), layers=2, heads=4),
}
FOUR_CHANNELS = LivePhoto(
    unet=UNetSizes(features=(32, 64), blocks_per_stage=1, attention_stages=(True, False), heads=4, groups=8),
    codec=autoencoder.KLCodec(autoencoder.TINY, frames_at_once=3),
    conditioners=ALL,
    process=Process(linear(0.00085, 0.012), "eps"),
    frames=4,
    size=(16, 24),
)
DIFFUSED = Sampling(DDIM(3), guidance=3.0, initial_noise=PriorInversion(0.3, 0.1), inversion_steps=2)


_SHAPES: dict[str, Any] = {}
"""Shapes of parameters by the representation of their system: tracing them takes seconds."""


def random_parameters(system: LivePhoto, seed: int = 0) -> dict[str, Any]:
    """Parameters of which none is zero or one, that keep activations near 1."""
    if repr(system) not in _SHAPES:
        _SHAPES[repr(system)] = jax.eval_shape(system.build().init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def fill(path: tuple, leaf: Any) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key.startswith("scale"):
            return 1 + 0.1 * noise
        return noise / np.sqrt(np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.3 * noise

    return jax.tree_util.tree_map_with_path(fill, _SHAPES[repr(system)])


@dataclasses.dataclass
class Case:
    """A system, what it was exported to, and a request."""

    system: LivePhoto
    sampling: Sampling
    params: dict[str, Any]
    folder: Path
    call: dict[str, Any]
    """Arguments of the pipeline; what is left out is the sampling's."""

    def ours(self, photo: Path) -> np.ndarray:
        """Frames in [0, 1], not rounded."""
        model = self.system.build()
        ids = HashTokenizer(TOKENS.vocabulary, TOKENS.length)([self.call["prompt"]])
        level = np.array([self.call.get("motion_level", 5)])
        batch = {IMAGE: load_photo(photo, self.system.size)[None], TEXT: ids, LEVEL: level}

        def frames(params: Any) -> jax.Array:
            z0 = model.sample_latents(params, batch, self.keys, self.sampling)
            return jnp.clip(model.latent_shape.codec.decode(params.get("codec", {}), z0) / 2 + 0.5, 0, 1)

        return np.asarray(jax.jit(frames)(self.params))

    @property
    def keys(self) -> jax.Array:
        return jax.random.split(jax.random.key(3), 1)

    def noise(self) -> np.ndarray:
        """What our sampler starts from, as the pipeline takes it."""
        return np.asarray(rearrange(self.system.build().noise(self.keys), "B T h w C -> B C T h w"))


def write_photo(path: Path) -> Path:
    """Writes a smooth picture of another shape than any clip."""
    rows, columns = np.mgrid[0:90, 0:140] / 60.0
    waves = np.stack([np.sin(3 * rows + columns), np.cos(4 * columns), np.sin(rows * columns * 5)], axis=-1)
    Image.fromarray(np.uint8(255 * (0.5 + 0.5 * waves))).save(path)
    return path


def opened(case: Case) -> Any:
    """The exported pipeline in this process."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(case.folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames_elsewhere(cases: Mapping[str, Case], photo: Path, folder: Path) -> dict[str, np.ndarray]:
    """What exported pipelines make from our noise in a process that knows nothing of us; `folder` is for its files."""
    jobs = []
    for name, case in cases.items():
        np.save(folder / f"{name}.npy", case.noise())
        places = {"folder": case.folder, "photo": photo, "noise": folder / f"{name}.npy"}
        places["frames"] = folder / f"{name}_frames.npy"
        jobs.append({**{key: str(path) for key, path in places.items()}, "call": case.call})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, str(Path(__file__).with_name("exported_pipeline.py")), str(folder / "jobs.json")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: np.load(folder / f"{name}_frames.npy") for name in cases}


def of_run(directory: Path, folder: Path, **call: Any) -> Case:
    """A run and what it was exported to."""
    opened_run = open_run(directory)
    system, sampling = opened_run.experiment.system, opened_run.experiment.sampling
    assert isinstance(system, LivePhoto)
    return Case(system, sampling, dict(opened_run.params), folder, call)
