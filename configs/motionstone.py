"""MotionStone (arXiv:2412.05848): the published size, a tiny one, and the rows of the paper's Table 2.

    python -m jaxmotion.train --config configs/motionstone.py --run runs/full --data.path CLIPS --dry-run
    python -m jaxmotion.train --config configs/motionstone.py:tiny --run runs/tiny

Values: `full` (on CogVideoX-5B-I2V), `prepared` (the same, on clips that are encoded already), `listed` (with
scores from a list), `v1_5` and `prepared_v1_5` (on CogVideoX1.5-5B-I2V); `tiny`. Table 2: `without_scores` (w/o M),
`mixed` (w/o D), `ssim`, `feature_difference` (S), and `full`. Each has a tiny form too, such as `tiny_mixed`.
`lora` and `tiny_lora` are a LoRA on a run (--pretrained.run.source DIR).
"""

import dataclasses

from jaxmotion.data.clips import Clips
from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer, T5Tokenizer
from jaxmotion.diffusion.guidance import CogVideoXDynamic
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, SDEDPMSolverPP
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.diffusion.schedule import linear, snr_shift, zero_terminal_snr
from jaxmotion.models import autoencoder3d, causal_codec, cogvideox, space_to_depth, t5, tadaconv
from jaxmotion.models.motion_estimator import MotionEstimatorSizes
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.conditioner import Conditioner
from jaxmotion.systems.lora import LoRA
from jaxmotion.systems.motionstone.injection import FirstFrame, ScoreEmbedding
from jaxmotion.systems.motionstone.intensity import (
    ConstantScores,
    EstimatedScores,
    Intensity,
    ProvidedScores,
    ScalarScore,
)
from jaxmotion.systems.motionstone.motionstone import MotionStone
from jaxmotion.systems.pretrained import backbone, text_encoder, vae
from jaxmotion.systems.text import T5Tokens
from jaxmotion.training.config import TrainConfig

Conditioners = dict[str, Conditioner]
SCORE_DROP = 0.1
"""Not specified in the paper; we use: each score is left out of as many clips as the text, so that it can be guided."""

METER = EstimatedScores(MotionEstimatorSizes(tadaconv.SMALL))
"""The motion meter of this package; its weights come with it."""
SSIM, FEATURES = ScalarScore("ssim"), ScalarScore("feature_difference")


def decoupled(features: int) -> Conditioners:
    """A half of the time embedding for each score."""
    return {
        "object": ScoreEmbedding("object", "first_half", features),
        "camera": ScoreEmbedding("camera", "second_half", features),
    }


def mixed_scores(features: int) -> Conditioners:
    """All of the time embedding for both scores."""
    return {name: ScoreEmbedding(name, "all", features) for name in ("object", "camera")}


def one_score(features: int) -> Conditioners:
    """All of the time embedding for a single intensity."""
    return {"intensity_score": ScoreEmbedding("intensity", "all", features)}


def dropout(image: float, scores: Conditioners) -> dict[str, float]:
    """Shares of the training clips without the picture, without the text, and without each score."""
    return {"image": image, "text": 0.1, **dict.fromkeys(scores, SCORE_DROP)}


def full_size(scores=decoupled, intensity: Intensity = METER, transformer=cogvideox.I2V_5B, rescale: float = 1.0):
    """MotionStone on public CogVideoX weights."""
    frames, size = (49, (480, 720)) if transformer is cogvideox.I2V_5B else (81, (768, 1360))
    public = "THUDM/CogVideoX-5b-I2V" if transformer is cogvideox.I2V_5B else "THUDM/CogVideoX1.5-5B-I2V"
    return Experiment(
        system=MotionStone(
            transformer=transformer,
            codec=causal_codec.CausalCodec(autoencoder3d.FULL, clips_at_once=1),
            conditioners={
                "image": FirstFrame(rescale=rescale),
                "text": T5Tokens(t5.XXL),
                **scores(transformer.time_features),
            },
            dropout=dropout(0.05, scores(transformer.time_features)),
            intensity=intensity,
            frames=frames,
            size=size,
        ),
        data=Clips(path="data/clips", frames=frames, fps=8.0 if frames == 49 else 16.0, size=size),
        tokenizer=T5Tokenizer("THUDM/CogVideoX-5b-I2V"),
        train=TrainConfig(
            # Not specified in the paper; these are the defaults of CogVideoX's own fine-tuning, whose batch is the
            # paper's.
            steps=20_000,
            batch_size=16,
            learning_rate=1e-5,
            betas=(0.9, 0.95),
            weight_decay=1e-4,
            clip_norm=0.1,
            warmup_steps=100,
            ema_decay=0.9999,
            precision="bfloat16",
            trained=(r"^denoiser/", r"^\w+_score/"),
            save_every=500,
            sample_every=0,
            log_every=10,
        ),
        pretrained={"backbone": backbone(public), "vae": vae(public), "text_encoder": text_encoder(public)},
        sampling=Sampling(SDEDPMSolverPP(50), guidance=6.0, guidance_schedule=CogVideoXDynamic()),
        workers=8,
    )


TINY_TRANSFORMER = cogvideox.CogVideoXSizes(
    depth=4,
    heads=4,
    head_features=48,
    in_channels=96,
    out_channels=48,
    patch=(1, 1),
    text_features=64,
    text_length=t5.TINY.length,
    time_features=64,
    positions="sines",
    grid=(4, 6, 6),
    pad_to=1,
    remat="none",
)


KNOWN = ProvidedScores()


def tiny_size(scores=decoupled, intensity: Intensity = KNOWN):
    """The same classes at a size that trains on two CPU cores, on clips whose motion is known exactly.

    The camera pans left and one disc moves left, each at its own speed or not at all. Captions say what the photo shows
    and nothing of its motion, so that only the scores tell how fast.
    """
    frames, fps, size = 4, 16.0, (24, 24)
    return Experiment(
        system=MotionStone(
            transformer=TINY_TRANSFORMER,
            codec=space_to_depth.SpaceToDepth(spatial_compression=4),
            conditioners={
                "image": FirstFrame(noise=(-4.0, 0.5)),
                "text": T5Tokens(t5.TINY),
                **scores(TINY_TRANSFORMER.time_features),
            },
            dropout=dropout(0.0, scores(TINY_TRANSFORMER.time_features)),
            intensity=intensity,
            process=Process(zero_terminal_snr(snr_shift(linear(0.00085, 0.012), 12.0)), "z0"),
            frames=frames,
            size=size,
        ),
        data=SyntheticClips(
            frames=frames,
            fps=fps,
            size=size,
            camera=("static", "pan", "pan"),
            directions=("left",),
            direction_spread=0.0,
            camera_speed=(0.012, 1.0),
            object_counts=(1,),
            objects=("still", "translate", "translate"),
            object_speed=(0.012, 1.0),
            object_size=(0.26, 0.3),
            object_place=(0.3, 0.7),
            shapes=("round",),
            view=(0.1, 0.3),
            tint=1.0,
            caption=("scene",),
        ),
        tokenizer=HashTokenizer(t5.TINY.vocabulary, t5.TINY.length),
        train=TrainConfig(
            steps=9000,
            batch_size=8,
            learning_rate=1.5e-3,
            warmup_steps=100,
            decay="cosine",
            betas=(0.9, 0.99),
            ema_decay=0.995,
            save_every=500,
            sample_every=4500,
        ),
        sampling=Sampling(DDIM(4, spacing="trailing", steps_offset=0, final="clean"), guidance=1.0),
        prompts=("a cat:",),
        workers=1,
    )


full, tiny = full_size(), tiny_size()
v1_5 = full_size(transformer=cogvideox.I2V_5B_V1_5, rescale=1 / 0.7**2)

prepared = dataclasses.replace(full, data=PrecomputedLatents(path="data/prepared"))
"""On a set that `python -m jaxmotion.prepare --config configs/motionstone.py` made: clips and captions are encoded
already (the autoencoder and T5 stay, for the noised pictures and the empty caption; with
--system.conditioners.text.null zeros T5 is not loaded)."""
prepared_v1_5 = dataclasses.replace(
    v1_5, data=PrecomputedLatents("data/prepared", v1_5.data.frames, v1_5.data.fps, v1_5.data.size)
)

listed = dataclasses.replace(
    full_size(intensity=KNOWN),
    data=Clips(path="data/clips", frames=49, fps=8.0, size=(480, 720), scores="data/clips/scores.jsonl"),
)
"""With the scores of a list, `python -m jaxmotion.score data/clips --out data/clips/scores.jsonl`."""


def lora_of(experiment: Experiment, rank: int) -> Experiment:
    """A LoRA on the attention layers, everything else frozen.

    Not specified in the paper; we use: a rank of 128 at the full size, and a learning rate of 1e-3. Neither was tuned.
    """
    return dataclasses.replace(
        experiment,
        system=LoRA(experiment.system, rank=rank, alpha=float(rank)),
        train=dataclasses.replace(experiment.train, trained=(r"^lora/",), learning_rate=1e-3),
    )


lora, tiny_lora = lora_of(full, 128), lora_of(tiny, 4)

# Table 2, w/o M: both scores are 5 for every clip in training; dials then turn what the network has not learned.
without_scores, tiny_without_scores = full_size(intensity=ConstantScores()), tiny_size(intensity=ConstantScores())
mixed, tiny_mixed = full_size(mixed_scores), tiny_size(mixed_scores)
ssim, tiny_ssim = full_size(one_score, SSIM), tiny_size(one_score, SSIM)
feature_difference, tiny_feature_difference = full_size(one_score, FEATURES), tiny_size(one_score, FEATURES)

smoke = dataclasses.replace(
    tiny, train=dataclasses.replace(tiny.train, steps=4, warmup_steps=1, save_every=2, sample_every=0), workers=0
)
