"""The config file of the fourth system."""

import dataclasses

from jaxmotion.data.precomputed import PrecomputedLatents
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.runs.experiment import Experiment
from jaxmotion.training.config import TrainConfig
from tests.support.fourth_data import Drifting, Spread
from tests.support.fourth_system import Drifter

tiny = Experiment(
    system=Drifter(),
    data=Drifting(),
    tokenizer=HashTokenizer(),
    train=TrainConfig(steps=2, batch_size=2, save_every=1, sample_every=1, log_every=1),
    sampling=Sampling(DDIM(2), guidance=1.0),
    evaluations={"spread": Spread(seeds=(0,))},
)
precomputed = dataclasses.replace(tiny, data=PrecomputedLatents("set", 4, 8.0, (16, 16)))
