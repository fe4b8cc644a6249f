"""Examples a second of a prepared set beside those of the clips that it was made of, in the same run.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --clips FOLDER --frames 17 --size 128 192

It compares what one training step has to do before the transformer runs: reading records, against decoding clips and
encoding them with the autoencoder, T5 and the motion meter. The networks are small and random (there are no public ones
here), so the ratio is a lower bound: at full size encoding a clip takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmotion.data.clips import Clips
from jaxmotion.data.loader import batches
from jaxmotion.data.precompute.encode import Encoder
from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.data.source import DataSource
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.models import t5
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.cogvideox import CogVideoXSizes
from jaxmotion.models.motion_estimator import MotionEstimatorSizes
from jaxmotion.models.tadaconv import SMALL
from jaxmotion.runs import precompute
from jaxmotion.runs import trained as run
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.motionstone.injection import FirstFrame
from jaxmotion.systems.motionstone.intensity import EstimatedScores
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.systems.text import T5Tokens
from jaxmotion.training.config import TrainConfig
from jaxmotion.video.encode import write_clip

BATCH, FPS, MADE = 4, 8.0, 8
SECONDS = 6.0
"""How long each row is measured, after a first batch that is not counted."""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of clips, or a list of them")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = options.clips or made_clips(Path(folder) / "clips", options.frames)
        asked = experiment(str(clips), options.frames, tuple(options.size))
        before = time.perf_counter()
        count = precompute.precompute(asked, Path(folder) / "set", at_once=BATCH)
        preparing = time.perf_counter() - before
        config = PrecomputedLatents(str(Path(folder) / "set"), options.frames, FPS, tuple(options.size))
        raw, records = asked.data.open(), config.open()
        table = Table("what a batch takes", "clips/s", "ratio", title=f"{count} clips, {jax.devices()[0].device_kind}")
        decoded = rate(raw, asked, None)
        encoded = rate(raw, asked, Encoder(asked.system, raw, asked.tokenizer, "float16"))
        read = rate(records, asked, None)
        unchecked = rate(dataclasses.replace(config, verify=False).open(), asked, None)
        for name, found in (
            ("clips: decoding", decoded),
            ("clips: decoding and encoding", encoded),
            ("prepared set", read),
            ("prepared set, digests not checked", unchecked),
        ):
            table.add_row(name, f"{found:.1f}", f"{found / encoded:.1f}")
        console = Console(width=100)
        console.print(table)
        console.print(f"preparing them took {preparing:.1f} s with compilation; ratio = over decoding and encoding")


def experiment(clips: str, frames: int, size: tuple[int, int]) -> Experiment:
    """A small MotionStone on a folder of clips."""
    transformer = CogVideoXSizes(1, 2, 16, 8, 4, text_features=64, text_length=16, positions="sines", pad_to=1)
    codec = CausalCodec(Autoencoder3DSizes(4, (16, 16, 32, 32), blocks_per_stage=1, groups=4))
    conditioners = {"image": FirstFrame(), "text": T5Tokens(t5.TINY)}
    return Experiment(
        system=MotionStone(
            transformer, codec, conditioners, EstimatedScores(MotionEstimatorSizes(SMALL)), frames=frames, size=size
        ),
        data=Clips(clips, frames=frames, fps=FPS, size=size),
        tokenizer=HashTokenizer(t5.TINY.vocabulary, t5.TINY.length),
        train=TrainConfig(batch_size=BATCH),
    )


def made_clips(folder: Path, frames: int) -> Path:
    """A few clips of synthetic motion, 192 x 256 px."""
    source = SyntheticClips(frames=2 * frames, size=(192, 256)).open()
    folder.mkdir()
    for index in range(MADE):
        write_clip(folder / f"{index}.mp4", source.example(index)["video"], FPS)
    return folder


def rate(source: DataSource, asked: Experiment, encoder: Encoder | None) -> float:
    """Clips a second."""
    loader = batches(source, batch_size=BATCH, seed=0, tokenize=asked.tokenizer)
    params = encoder.load_parameters({}, run.make_mesh(devices=jax.local_devices()[:1]))[0] if encoder else {}
    compiled = jax.jit(encoder.run) if encoder else None
    count, start = 0, 0.0
    for number, batch in enumerate(loader):
        if compiled is not None:
            jax.block_until_ready(compiled(params, {name: np.asarray(array) for name, array in batch.items()}))
        if number == 0:
            start = time.perf_counter()
            continue
        count += BATCH
        if time.perf_counter() - start > SECONDS:
            break
    loader.close()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
