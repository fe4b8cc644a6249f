"""LivePhoto (arXiv:2312.02928): the published size, a tiny one, and the rows of the paper's ablation tables.

    python -m jaxmotion.train --config configs/livephoto.py --run runs/full --data.path CLIPS --dry-run
    python -m jaxmotion.train --config configs/livephoto.py:tiny --run runs/tiny --data.path CLIPS

Values: `full`, `tiny`; Table 1: `reference_latent`, `content_encoder`, `prior_inversion` (= full); Table 2:
`without_intensity`, `without_reweighting`. Each ablation also has a tiny form, e.g. `tiny_without_intensity`.
"""

import dataclasses

from jaxmotion.data.clips import Clips
from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.schedule import linear, snr_shift, zero_terminal_snr
from jaxmotion.experiment import Experiment
from jaxmotion.models import autoencoder, clip, dinov2, stable_diffusion
from jaxmotion.models.unet import UNetSizes
from jaxmotion.systems.conditioner import Droppable, ReferenceLatent, TextTokens
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import FrameMap, LevelMap
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import Reweighted
from jaxmotion.systems.system import Noise, Sampling
from jaxmotion.train.config import TrainConfig

NEW_PARTS = (
    r"^denoiser/.*/motion/",
    r"^denoiser/.*/content/",
    r"^denoiser/conv_condition/",
    r"^content/",
    r"^reweighting/",
)
"""What LivePhoto adds to Stable Diffusion and trains; everything else is frozen (Sec. 3.2, Fig. 2)."""

full = Experiment(
    system=LivePhoto(
        unet=dataclasses.replace(stable_diffusion.FULL, remat="full"),
        codec=autoencoder.KLCodec(autoencoder.FULL, frames_at_once=16),
        conditioners={
            "reference": ReferenceLatent(),
            "frame": FrameMap(),
            "level": LevelMap(),
            "content": ContentTokens(dinov2.BASE, features=768),
            "text": Droppable(Reweighted(TextTokens(clip.FULL)), probability=0.5),
        },
        process=Process(linear(0.00085, 0.012), "eps"),  # the schedule AnimateDiff's motion modules were trained on
        frames=16,
        size=(256, 256),
    ),
    data=Clips(path="data/webvid", frames=16, fps=8.0, size=(256, 256)),
    tokenizer=ClipTokenizer("openai/clip-vit-large-patch14"),
    train=TrainConfig(
        steps=100_000,
        batch_size=64,
        learning_rate=1e-4,
        warmup_steps=1000,
        ema_decay=0.9999,
        precision="bfloat16",
        trained=NEW_PARTS,
        save_every=2000,
        sample_every=2000,
        log_every=20,
    ),
    sampling=Sampling(DDIM(25), guidance=7.5, start=PriorInversion()),
)

tiny = Experiment(
    system=LivePhoto(
        unet=UNetSizes(
            12, 12, features=(32, 64), blocks_per_stage=1, attention_stages=(False, True), heads=4, groups=8
        ),
        codec=autoencoder.SpaceToDepth(factor=2),
        conditioners={
            "reference": ReferenceLatent(),
            "frame": FrameMap(),
            "level": LevelMap(scale=0.1),
            "content": ContentTokens(dinov2.TINY, features=64),
            "text": Droppable(Reweighted(TextTokens(clip.TINY), heads=4), probability=0.1),
        },
        process=Process(zero_terminal_snr(snr_shift(linear(0.00085, 0.012), 3.0)), "v"),
        frames=8,
        size=(32, 32),
    ),
    data=Clips(path="data/clips", frames=8, fps=8.0, size=(32, 32)),
    tokenizer=HashTokenizer(vocabulary=clip.TINY.vocabulary, length=clip.TINY.length),
    train=TrainConfig(
        steps=1000,
        batch_size=8,
        learning_rate=2e-3,
        warmup_steps=50,
        decay="cosine",
        ema_decay=0.99,
        save_every=100,
        sample_every=250,
    ),
    sampling=Sampling(DDIM(10, spacing="trailing", final="clean"), guidance=1.5, start=PriorInversion()),
)


def without(experiment: Experiment, *names: str) -> Experiment:
    """The experiment with conditioners left out."""
    kept = {name: each for name, each in experiment.system.conditioners.items() if name not in names}
    return dataclasses.replace(experiment, system=dataclasses.replace(experiment.system, conditioners=kept))


def plain_text(experiment: Experiment) -> Experiment:
    """The experiment with CLIP's text tokens as they are, the same on every frame."""
    text = experiment.system.conditioners["text"]
    kept = {**experiment.system.conditioners, "text": dataclasses.replace(text, of=text.of.of)}
    trained = tuple(pattern for pattern in experiment.train.trained if "reweighting" not in pattern)
    return dataclasses.replace(
        experiment,
        system=dataclasses.replace(experiment.system, conditioners=kept),
        train=dataclasses.replace(experiment.train, trained=trained),
    )


def without_content(experiment: Experiment) -> Experiment:
    """The experiment with the reference latent as its only view of the photo, started from plain noise."""
    trained = tuple(pattern for pattern in experiment.train.trained if "content" not in pattern)
    smaller = without(experiment, "content")
    return dataclasses.replace(from_noise(smaller), train=dataclasses.replace(smaller.train, trained=trained))


def from_noise(experiment: Experiment) -> Experiment:
    """The experiment sampled from plain noise, without prior inversion."""
    return dataclasses.replace(experiment, sampling=dataclasses.replace(experiment.sampling, start=Noise()))


# Table 1, row by row. Prior inversion belongs to sampling, so the second and the third row share their training.
reference_latent, tiny_reference_latent = without_content(full), without_content(tiny)
content_encoder, tiny_content_encoder = from_noise(full), from_noise(tiny)
prior_inversion, tiny_prior_inversion = full, tiny
# Table 2.
without_intensity, tiny_without_intensity = without(full, "level"), without(tiny, "level")
without_reweighting, tiny_without_reweighting = plain_text(full), plain_text(tiny)
