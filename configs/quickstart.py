"""The README's first command: a tiny LivePhoto on clips made on the fly from real photographs, in minutes on two cores.

    python -m jaxmotion.quickstart --run runs/quickstart

`full` is the whole thing; `smoke` takes the same way in a minute, and its clips show nothing.
"""

import dataclasses

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.diffusion.schedule import linear, snr_shift, zero_terminal_snr
from jaxmotion.evaluation.control_curve import ControlCurve
from jaxmotion.models import clip, dinov2
from jaxmotion.models.space_to_depth import SpaceToDepth
from jaxmotion.models.unet import UNetSizes
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import FrameMap, LevelMap
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.systems.text import TextTokens
from jaxmotion.training.config import TrainConfig

FRAMES, SIZE = 8, (32, 32)

full = Experiment(
    system=LivePhoto(
        unet=UNetSizes(
            48,
            48,
            features=(64, 64),
            blocks_per_stage=1,
            attention_stages=(True, True),
            heads=4,
            groups=2,
        ),
        codec=SpaceToDepth(spatial_compression=4),
        conditioners={
            "reference": ReferenceLatent(),
            "frame": FrameMap(),
            "level": LevelMap(),
            "content": ContentTokens(dinov2.TINY, features=64),
            "text": ReweightedText(TextTokens(clip.TINY), heads=4, initial_weight=0.5),
        },
        # Predicting z0 from a reference that shows most of it is the easiest task for a small network, and more noise
        # makes it look at the conditions more often.
        process=Process(zero_terminal_snr(snr_shift(linear(0.00085, 0.012), 6.0)), "z0"),
        frames=FRAMES,
        size=SIZE,
        dropout={"text": 0.1},
    ),
    data=SyntheticClips(
        frames=FRAMES,
        size=SIZE,
        camera=("pan",),
        directions=("left", "right"),
        direction_spread=0.0,
        camera_speed=(0.008, 0.2),
        object_counts=(0,),
        tint=1.0,
    ),
    tokenizer=HashTokenizer(clip.TINY.vocabulary, clip.TINY.length),
    train=TrainConfig(
        steps=1800,
        batch_size=4,
        learning_rate=4e-3,
        warmup_steps=50,
        decay="cosine",
        betas=(0.9, 0.99),
        ema_decay=0.99,
        save_every=250,
    ),
    sampling=Sampling(
        # Without guidance a step evaluates the network once; 20 of these leave less jitter than 12 with guidance. The
        # last step of 18, 24 or 28 goes to t = 0 instead of the clean latent, and leaves noise (1000 // 24 <= 41).
        DDIM(20, spacing="trailing", steps_offset=0, final="clean"),
        guidance=1.0,
        initial_noise=PriorInversion(),
        inversion_steps=4,
    ),
    prompts=("the camera pans left", "the camera pans right"),
    # A second seed doubled the cost of the curve and moved its numbers by 0.001.
    evaluations={"control": ControlCurve(seeds=(0,))},
)

smoke = dataclasses.replace(
    full, train=dataclasses.replace(full.train, steps=4, warmup_steps=1, save_every=2, sample_every=4)
)
