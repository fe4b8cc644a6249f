"""The motion estimator of MotionStone (arXiv:2412.05848), trained on worlds with known motion.

    python -m jaxmotion.train --config configs/motion_estimator.py:small --run runs/meter
    python -m jaxmotion.score export --run runs/meter --out motion_meter.safetensors

`small` is the meter that comes with the package. `r50` is the paper's way: TAda2D-R50 on pixels; `r14` is
that in small. `tiny` is for tests.
"""

import dataclasses

from jaxmotion.data.cluttered_scenes import ClutteredScenes
from jaxmotion.data.compared_pairs import ComparedPairs
from jaxmotion.data.mixture import Mixture
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.data.two_by_two import TwoByTwo
from jaxmotion.models import tadaconv
from jaxmotion.models.motion_estimator import MotionEstimatorSizes, Pixels
from jaxmotion.runs.experiment import Experiment
from jaxmotion.systems.motion_estimator.motion_estimator import MotionEstimator
from jaxmotion.training.config import TrainConfig

small = Experiment(
    system=MotionEstimator(MotionEstimatorSizes(tadaconv.SMALL)),
    data=ClutteredScenes(),
    tokenizer=HashTokenizer(16, 2),
    train=TrainConfig(
        steps=5000,
        batch_size=32,
        learning_rate=2e-3,
        warmup_steps=100,
        decay="cosine",
        weight_decay=0.02,
        ema_decay=0.99,
        save_every=200,
    ),
    workers=1,
)

full = small

r50 = dataclasses.replace(
    small,
    system=MotionEstimator(
        MotionEstimatorSizes(dataclasses.replace(tadaconv.R50, norm="group"), Pixels()), frames=8, size=(224, 224)
    ),
    data=ClutteredScenes(frames=8, size=(224, 224)),
    train=dataclasses.replace(small.train, steps=20_000, learning_rate=1e-4, warmup_steps=500, ema_decay=0.999),
    workers=8,
)
"""TAda2D-R50 on pixels from random weights.

From published ones, whose batch norms keep their moments:

    python -m jaxmotion.train --config configs/motion_estimator.py:r50 --system.network.backbone.norm batch
        --pretrained.backbone.source TAda2D_R50.pyth --run runs/r50
"""

r14 = dataclasses.replace(
    r50,
    system=MotionEstimator(MotionEstimatorSizes(tadaconv.R14, Pixels()), frames=8, size=(48, 80)),
    data=ClutteredScenes(frames=8, size=(48, 80)),
    train=dataclasses.replace(small.train, steps=1200, learning_rate=2e-3, ema_decay=0.99, save_every=100),
    workers=1,
)
"""`r50` in a size for two CPU cores: a second a step alone. Not trained to its end yet."""

tiny = dataclasses.replace(
    small,
    system=MotionEstimator(MotionEstimatorSizes(tadaconv.TINY, hidden=32), frames=4, size=(48, 64)),
    data=ClutteredScenes(frames=4, size=(48, 64)),
    train=dataclasses.replace(small.train, steps=60, batch_size=8, warmup_steps=5, save_every=30),
    workers=0,
)

judged = dataclasses.replace(
    small,
    data=Mixture(
        {
            "judged": ComparedPairs("", pairs="pairs.csv"),
            "labelled": ComparedPairs("", labels="pseudo_labels.jsonl"),
            "drawn": TwoByTwo(ClutteredScenes()),
        },
        {"judged": 1.0, "labelled": 1.0, "drawn": 2.0},
    ),
    workers=1,
)
"""The paper's way to train it: on pairs that people judged (`python -m jaxmotion.score label`) and on pseudo-labels.

    python -m jaxmotion.train --config configs/motion_estimator.py:judged --pretrained.run.source runs/meter
        --data.of.judged.path clips --data.of.judged.pairs pairs.csv
        --data.of.labelled.path clips --data.of.labelled.labels pseudo_labels.jsonl --run runs/mine

A batch has judged pairs, labelled clips and drawn ones by `data.weights`, and its loss is the paper's: L_o + L_c on the
pairs, lambda L_r on the labels.
"""
