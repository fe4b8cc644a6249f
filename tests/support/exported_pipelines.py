"""Both exported pipelines, small and with random parameters, as users of diffusers open and call them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from PIL import Image

from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.systems.livephoto.export import export_diffusers
from jaxmotion.systems.motionstone.export import export_motionstone
from tests.support.exported_motionstone import CASES, TEXTS, random_params, system_of
from tests.support.exports import DIFFUSED, FOUR_CHANNELS, TOKENS, random_parameters, write_photo

BOTH = ("livephoto", "motionstone")


@dataclasses.dataclass
class Exported:
    """An exported pipeline with a request, and what it makes of it in two steps."""

    name: str
    folder: Path
    pipe: Any
    photo: Image.Image

    def __call__(self, **asked: Any) -> Any:
        """Frames, or latents if nothing else is asked for."""
        asked = {"image": self.photo, "prompt": "a dog runs", "num_inference_steps": 2, **asked}
        return self.pipe(**{"generator": seed(0), "output_type": "latent", **asked}).frames

    def embeds(self, prompt: str) -> Any:
        """Embeddings of a prompt, and of the empty one."""
        return self.pipe.encode_prompt(prompt, do_classifier_free_guidance=True)


def seed(number: int) -> Any:
    """A generator of PyTorch."""
    import torch

    return torch.Generator().manual_seed(number)


def load_pipeline(folder: Path, **how: Any) -> Any:
    """The pipeline of a folder, silent."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **how)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export_both(root: Path) -> dict[str, Exported]:
    """Exports both into folders of their names and opens them."""
    made = {}
    export_diffusers(
        FOUR_CHANNELS, random_parameters(FOUR_CHANNELS), DIFFUSED, TOKENS, root / "livephoto", meta={}, verify=False
    )
    sizes, frames, image = CASES["1.0"]
    system = system_of(sizes, frames, **image)
    sampling = Sampling(DDIM(3, spacing="trailing", steps_offset=0, final="clean"), 6.0)
    tokens = HashTokenizer(TEXTS.vocabulary, TEXTS.length)
    export_motionstone(system, random_params(system), sampling, tokens, root / "motionstone", meta={}, verify=False)
    for name, size in (("livephoto", (24, 16)), ("motionstone", (48, 32))):
        with Image.open(write_photo(root / f"{name}.png")) as opened:
            photo = opened.convert("RGB").resize(size)
        made[name] = Exported(name, root / name, load_pipeline(root / name), photo)
    return made
