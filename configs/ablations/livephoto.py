"""Tables 1 and 2 of LivePhoto (arXiv:2312.02928) at the tiny size, on clips of the quickstart.

    python -m jaxmotion.evaluate ablations --config configs/ablations/livephoto.py --out runs/ablations

Trains what is not trained yet, turns the level of every row, and prints one table. The rows differ in nothing but their
conditioners and where sampling starts; `prior_inversion` is the whole of LivePhoto, and a row of both tables.
"""

import dataclasses
import importlib.util
from pathlib import Path


def _load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_config", Path(__file__).parents[1] / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_livephoto, _quickstart = _load("livephoto"), _load("quickstart").full


def _on_quickstart(experiment):
    return dataclasses.replace(
        experiment, data=_quickstart.data, train=_quickstart.train, prompts=_quickstart.prompts, workers=0
    )


reference_latent = _on_quickstart(_livephoto.tiny_reference_latent)
content_encoder = _on_quickstart(_livephoto.tiny_content_encoder)
prior_inversion = _on_quickstart(_livephoto.tiny_prior_inversion)
without_intensity = _on_quickstart(_livephoto.tiny_without_intensity)
without_reweighting = _on_quickstart(_livephoto.tiny_without_reweighting)
