"""The README.md of an export: a model card with usage, limits and the training configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.systems.pretrained import Pretrained
from jaxmotion.weights.parity import Report
from jaxmotion.weights.tables.stable_diffusion import num_positions

if TYPE_CHECKING:
    from jaxmotion.systems.livephoto.livephoto import LivePhoto

_PAPER = "[LivePhoto: Real Image Animation with Text-guided Motion Control](https://arxiv.org/abs/2312.02928)"
_REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:[@:].*)?$")


def pipeline_card(system: LivePhoto, sampling: Sampling, meta: Json, report: Report) -> str:
    """The card of a whole pipeline."""
    height, width = system.size
    example = "the camera pans left"
    return f"""{_front_matter(meta, "DiffusionPipeline")}
# LivePhoto: a photo, a sentence and a motion level become a clip

Animates a photo into {system.frames} frames of {width} x {height} px. The method is {_PAPER}; this model was trained
with jaxmotion, which is JAX, and exported to PyTorch.

```python
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video, load_image

pipe = DiffusionPipeline.from_pretrained("FOLDER_OR_REPOSITORY", trust_remote_code=True, dtype=torch.float32)
pipe.to("cuda")
photo, seed = load_image("photo.jpg"), torch.Generator().manual_seed(0)
export_to_video(pipe(photo, "{example}", motion_level=5, generator=seed).frames[0], "clip.mp4", fps=8)
```

`trust_remote_code=True` lets diffusers run the few PyTorch files that ship in this folder; read them first.

| argument | what it does | default |
|---|---|---|
| `motion_level` | how much moves, from 1 (nearly still) to 10 | 5 |
| `num_inference_steps` | denoising steps | {sampling.sampler.steps} |
| `guidance_scale` | classifier-free guidance on the text; 1 is none | {sampling.guidance:g} |
| `prior_strength` | how far the first noise leans to the photo, on the first and last frame | as trained |
| `negative_prompt` | what guidance leads away from | empty |
| `num_frames` | fixed by the training | {system.frames} |

All other arguments are those of `AnimateDiffPipeline`, such as `num_videos_per_prompt`, `prompt_embeds`, `clip_skip`
and `callback_on_step_end`, and another scheduler is set as it is there, from this one's config.
{_guidance(sampling)}
## What is in the folder

`unet` is a stock `UNetMotionModel`. Its {system.unet.in_channels} noise channels are followed by: {_channels(system)}.
`content_layers` and `text_reweighting`, where they are there, are small PyTorch modules. `export_report.json` says how
far each part is from the trained JAX network on the same inputs: {_summary(report)}.
{_levels(system)}
## Limits

The model repeats the limits of its base model and of its training clips. It makes clips of the length and about the
size that it was trained on, moves what it has seen moving, and does not know people, places or texts by name any better
than its base. Frames are not guaranteed to keep faces or writing intact. Do not present its clips as recordings.

{_configuration(meta)}"""


def adapter_card(system: LivePhoto, meta: Json) -> str:
    """The card of a motion adapter."""
    return f"""{_front_matter(meta, "MotionAdapter")}
# LivePhoto's motion modules as an adapter

The motion modules of a model that was trained with jaxmotion after {_PAPER}, and the columns of its first convolution
that read the condition channels. They attach to the U-Net of any fine-tune of Stable Diffusion 1.5:

```python
from diffusers import DiffusionPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel

adapter = MotionAdapter.from_pretrained("THIS_FOLDER")
unet = UNetMotionModel.from_unet2d(UNet2DConditionModel.from_pretrained("FINE_TUNE", subfolder="unet"), adapter)
pipe = DiffusionPipeline.from_pretrained("LIVEPHOTO_FOLDER", unet=unet, trust_remote_code=True)
```

After the {system.unet.in_channels} noise channels the U-Net reads: {_channels(system)}. Content layers and text
re-weighting are no part of an adapter; the pipeline of the whole export brings them.

{_configuration(meta)}"""


def comfy_card(system: LivePhoto, meta: Json) -> str:
    """The card of motion modules for AnimateDiff's nodes."""
    norms = (
        "- The nodes norm each frame alone, as AnimateDiff's own code does; these modules were trained with norms\n"
        '  over the whole clip (`motion_norm="clip"`), so the nodes compute something else than the training did.\n'
        if system.motion_norm == "clip"
        else ""
    )
    return f"""{_front_matter(meta, "comfyui", library="")}
# LivePhoto's motion modules for AnimateDiff's nodes

`motion_module.safetensors` holds the motion modules of a model that was trained with jaxmotion after {_PAPER}, in the
names of AnimateDiff. ComfyUI-AnimateDiff-Evolved reads it from `models/animatediff_models`, with any checkpoint of
Stable Diffusion 1.5, up to {num_positions(system.frames)} frames; it was trained on {system.frames}.

- **ComfyUI 0.25.0 makes noise of every AnimateDiff clip, whatever the module** (ComfyUI-AnimateDiff-Evolved, issue
  576). It is not this file: use another version of ComfyUI.
- The nodes know neither the photo nor the motion level: the input columns that read them are left out, and so are
  content layers and the weights of the words. The whole pipeline is the export `diffusers`.
{norms}
{_configuration(meta)}"""


def _front_matter(meta: Json, kind: str, library: str = "diffusers") -> str:
    lines = ["---", *([f"library_name: {library}"] if library else []), "pipeline_tag: image-to-video"]
    if bases := _bases(meta):
        lines += ["base_model:", *(f"- {base}" for base in bases)]
    lines += ["tags:", *(f"- {tag}" for tag in ("image-to-video", "livephoto", "motion-control", "jaxmotion", kind))]
    return "\n".join([*lines, "---", ""])


def _bases(meta: Json) -> list[str]:
    """The repositories of the Hugging Face hub that training started from, each once."""
    kinds = Pretrained.__qualname__
    sources = [each["source"] for each in meta.get("pretrained", {}).values() if each["class"] == kinds]
    found = [_REPOSITORY.match(source) for source in sources if source and not Path(source).exists()]
    return list(dict.fromkeys(match[1] for match in found if match))


def _channels(system: LivePhoto) -> str:
    counts = {name: conditioner.channels(system.codec) for name, conditioner in system.conditioners.items()}
    return ", ".join(f"{name} ({count})" for name, count in counts.items() if count) or "nothing"


def _summary(report: Report) -> str:
    verified = [part for part in report.parts.values() if part.status == "verified"]
    if not verified:
        return "not verified"
    return f"{len(verified)} of {len(report.parts)} verified, none further than {max(p.absolute for p in verified):.1e}"


def _guidance(sampling: Sampling) -> str:
    """Returns what the exported pipeline's guidance cannot do as we do."""
    said = ""
    if not isinstance(sampling.guidance_schedule, Constant) and sampling.guidance_schedule != CogVideoXDynamic():
        said += """
jaxmotion sampled this model with guidance that rises step by step; a constant `guidance_scale` is the nearest here.
"""
    if sampling.guidance < 1:
        said += """
jaxmotion sampled this model with guidance below 1, between no text and the text; here that is the plain conditional
prediction, as in all pipelines of diffusers.
"""
    return said


def _levels(system: LivePhoto) -> str:
    """The table of what each level means, measured on the training clips."""
    if system.level is None or not system.level.edges:
        return ""
    still = (system.frames - 1) / system.frames
    bounds = [f"{still:.4f}", *(f"{edge:.4f}" for edge in reversed(system.level.edges)), "0"]
    rows = "\n".join(f"| {level + 1} | {bounds[level + 1]} to {bounds[level]} |" for level in range(len(bounds) - 1))
    return f"""
## What a level means

The SSIM of neighbouring frames, summed and divided by the number of frames (Eq. 4 of the paper), as it was on the
training clips of each level:

| level | intensity |
|---|---|
{rows}
"""


def _configuration(meta: Json) -> str:
    return f"""## Training configuration

<details><summary>as JSON, also in <code>jaxmotion_config.json</code></summary>

```json
{json.dumps(meta, indent=2)}
```

</details>
"""
