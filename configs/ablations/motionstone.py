"""Table 2 of MotionStone (arXiv:2412.05848) at the tiny size, on clips with known motion.

    python -m jaxmotion.evaluate ablations --config configs/ablations/motionstone.py --out runs/ablations

Trains what is not trained yet, turns both dials of every row, and prints one table. The rows differ in nothing but
where the scores of training clips come from and how they enter. Each is trained for 3,000 steps, a third of
`configs/motionstone.py:tiny`, so that the five take half an hour on two cores.
"""

import dataclasses
import importlib.util
from pathlib import Path

_file = Path(__file__).parents[1] / "motionstone.py"
_spec = importlib.util.spec_from_file_location("motionstone_config", _file)
assert _spec is not None
assert _spec.loader is not None
_motionstone = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_motionstone)


def _shorter(experiment):
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=3000, sample_every=0))


without_scores = _shorter(_motionstone.tiny_without_scores)
feature_difference = _shorter(_motionstone.tiny_feature_difference)
ssim = _shorter(_motionstone.tiny_ssim)
mixed = _shorter(_motionstone.tiny_mixed)
full = _shorter(_motionstone.tiny)
