"""LivePhoto (arXiv:2312.02928): the published size, a tiny one, and the rows of the paper's ablation tables.

    python -m jaxmotion.train --config configs/livephoto.py --run runs/full --data.path CLIPS --dry-run
    python -m jaxmotion.train --config configs/livephoto.py:tiny --run runs/tiny --data.path CLIPS

Values: `full`, `tiny`; `lora` and `tiny_lora`, a LoRA on a run (--pretrained.run.source DIR); Table 1, row by row:
`reference_latent`, `content_encoder`, `prior_inversion` (= full); Table 2: `without_intensity`, `without_reweighting`.
Each ablation has a tiny form too, such as `tiny_without_intensity`.
"""

import dataclasses

from jaxmotion.data.clips import Clips
from jaxmotion.data.tokenize import ClipTokenizer, HashTokenizer
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import InitialNoise, Noise, Sampling
from jaxmotion.diffusion.schedule import linear, snr_shift, zero_terminal_snr
from jaxmotion.models import autoencoder, clip, dinov2, space_to_depth, stable_diffusion
from jaxmotion.models.unet import UNetSizes
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems import pretrained
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import FrameMap, LevelMap
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.lora import LoRA
from jaxmotion.systems.pretrained import PretrainedSource
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.systems.text import TextTokens
from jaxmotion.training.config import TrainConfig

Conditioners = dict[str, Conditioner]
PRIOR = PriorInversion()

MOTION, CONTENT = r"^denoiser/.*/motion/", r"^denoiser/.*/content/|^content/"
CHANNELS, REWEIGHTING = r"^denoiser/conv_condition/", r"^reweighting/"
NEW_PARTS = (MOTION, CONTENT, CHANNELS, REWEIGHTING)
"""What LivePhoto adds to Stable Diffusion and trains; everything else is frozen (Sec. 3.2, Fig. 2)."""

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
PUBLIC_WEIGHTS: dict[str, PretrainedSource] = {
    # AnimateDiff's modules were trained on linear betas, Stable Diffusion on scaled_linear ones.
    "backbone": pretrained.backbone(STABLE_DIFFUSION, accepts=("beta_schedule",)),
    # Not specified in the paper; we use: AnimateDiff's third weights for the motion modules, which have none in the
    # middle, as these.
    "motion_module": pretrained.motion_module("guoyww/animatediff-motion-adapter-v1-5-3"),
    "vae": pretrained.vae(STABLE_DIFFUSION),
    "text_encoder": pretrained.text_encoder(STABLE_DIFFUSION),
    "content_encoder": pretrained.content_encoder("facebook/dinov2-base"),
}

FULL_PARTS: Conditioners = {
    "reference": ReferenceLatent(),
    "frame": FrameMap(),
    "level": LevelMap(),
    "content": ContentTokens(dinov2.BASE, features=768),
    "text": ReweightedText(TextTokens(clip.FULL)),
}
FULL_PLAIN_TEXT: Conditioners = {"text": TextTokens(clip.FULL)}

TINY_PARTS: Conditioners = {
    "reference": ReferenceLatent(),
    "frame": FrameMap(),
    "level": LevelMap(),
    "content": ContentTokens(dinov2.TINY, features=64),
    "text": ReweightedText(TextTokens(clip.TINY), heads=4, initial_weight=0.5),  # there is no frozen network
}
TINY_PLAIN_TEXT: Conditioners = {"text": TextTokens(clip.TINY)}


def without(parts: Conditioners, name: str) -> Conditioners:
    """The conditioners but one."""
    return {key: part for key, part in parts.items() if key != name}


def full_size(parts: Conditioners, trained: tuple[str, ...] = NEW_PARTS, initial_noise: InitialNoise = PRIOR):
    """LivePhoto at the published size with these conditioners, trained parts and initial noise."""
    return Experiment(
        system=LivePhoto(
            unet=dataclasses.replace(stable_diffusion.FULL, remat="full"),
            codec=autoencoder.KLCodec(autoencoder.FULL, frames_at_once=16),
            conditioners=parts,
            process=Process(linear(0.00085, 0.012), "eps"),  # what AnimateDiff's motion modules were trained on
            frames=16,
            size=(256, 256),
            dropout={"text": 0.5},
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
            trained=trained,
            save_every=2000,
            sample_every=2000,
            log_every=20,
        ),
        pretrained=PUBLIC_WEIGHTS,
        sampling=Sampling(DDIM(25), guidance=7.5, initial_noise=initial_noise),
        workers=8,
    )


def tiny_size(parts: Conditioners, initial_noise: InitialNoise = PRIOR):
    """The same classes at a size that trains on two CPU cores; all of it is trained, for there is nothing to load."""
    return Experiment(
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
            codec=space_to_depth.SpaceToDepth(spatial_compression=4),
            conditioners=parts,
            process=Process(zero_terminal_snr(snr_shift(linear(0.00085, 0.012), 6.0)), "z0"),
            frames=8,
            size=(32, 32),
            dropout={"text": 0.1},
        ),
        data=Clips(path="data/clips", frames=8, fps=8.0, size=(32, 32)),
        tokenizer=HashTokenizer(clip.TINY.vocabulary, clip.TINY.length),
        train=TrainConfig(
            steps=1000,
            batch_size=4,
            learning_rate=4e-3,
            warmup_steps=50,
            decay="cosine",
            betas=(0.9, 0.99),
            ema_decay=0.99,
            save_every=100,
            sample_every=250,
        ),
        sampling=Sampling(
            DDIM(12, spacing="trailing", steps_offset=0, final="clean"),
            guidance=1.5,
            initial_noise=initial_noise,
            inversion_steps=4,
        ),
    )


PUBLIC_ATTENTION = (r"^denoiser/.*/(space|text|time_\d)/attention/(query|key|value|out)/kernel$",)
"""The attention layers that Stable Diffusion and AnimateDiff have too, so that others can read a LoRA on them."""


def lora_of(experiment: Experiment, rank: int) -> Experiment:
    """A LoRA on the public attention layers, everything else frozen."""
    return dataclasses.replace(
        experiment,
        system=LoRA(experiment.system, rank=rank, alpha=float(rank), paths=PUBLIC_ATTENTION),
        train=dataclasses.replace(experiment.train, trained=(r"^lora/",)),
    )


full, tiny = full_size(FULL_PARTS), tiny_size(TINY_PARTS)
lora, tiny_lora = lora_of(full, 16), lora_of(tiny, 4)

# Table 1. Prior inversion belongs to sampling, so its row and the one before share their training.
reference_latent = full_size(without(FULL_PARTS, "content"), (MOTION, CHANNELS, REWEIGHTING), Noise())
content_encoder = full_size(FULL_PARTS, initial_noise=Noise())
prior_inversion = full
tiny_reference_latent = tiny_size(without(TINY_PARTS, "content"), Noise())
tiny_content_encoder = tiny_size(TINY_PARTS, Noise())
tiny_prior_inversion = tiny

# Table 2.
without_intensity = full_size(without(FULL_PARTS, "level"))
without_reweighting = full_size({**FULL_PARTS, **FULL_PLAIN_TEXT}, (MOTION, CONTENT, CHANNELS))
tiny_without_intensity = tiny_size(without(TINY_PARTS, "level"))
tiny_without_reweighting = tiny_size({**TINY_PARTS, **TINY_PLAIN_TEXT})
