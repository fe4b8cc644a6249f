"""A small MotionStone with CogVideoX's autoencoder and T5, on synthetic clips: what the tests prepare."""

import dataclasses

from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.models import t5
from jaxmotion.models.autoencoder3d import Autoencoder3DSizes
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.models.cogvideox import CogVideoXSizes
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.motionstone.injection import FirstFrame, ScoreEmbedding
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.systems.text import T5Tokens
from jaxmotion.training.config import TrainConfig

FRAMES, SIZE = 5, (32, 32)

full = Experiment(
    system=MotionStone(
        CogVideoXSizes(
            depth=1,
            heads=2,
            head_features=16,
            in_channels=8,
            out_channels=4,
            text_features=64,
            text_length=16,
            time_features=16,
            positions="sines",
            pad_to=1,
            remat="none",
        ),
        CausalCodec(Autoencoder3DSizes(4, (4, 4, 8), halvings=2, blocks_per_stage=1, groups=2)),
        {
            "image": FirstFrame(),
            "text": T5Tokens(t5.TINY),
            "object": ScoreEmbedding("object", "first_half", 16),
            "camera": ScoreEmbedding("camera", "second_half", 16),
        },
        frames=FRAMES,
        size=SIZE,
        dropout={"image": 0.05, "text": 0.5, "object": 0.1, "camera": 0.1},
    ),
    data=SyntheticClips(clips=24, frames=FRAMES, size=SIZE),
    tokenizer=HashTokenizer(t5.TINY.vocabulary, t5.TINY.length),
    train=TrainConfig(steps=2, batch_size=2, save_every=2, log_every=1, trained=(r"^denoiser/", r"_score/")),
)
prepared = dataclasses.replace(full, data=PrecomputedLatents("prepared", FRAMES, 8.0, SIZE))
