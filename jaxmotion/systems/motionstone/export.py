"""MotionStone as pipelines of public classes: with both dials, or with one setting of them baked into CogVideoX.

The scores are added to the time embedding, so for one setting they are a part of its last bias: then
`CogVideoXImageToVideoPipeline` runs the model as it is. That is exact as long as both branches of the guidance have the
same scores, which is so unless a score is guided itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxmotion.diffusion.guidance import CogVideoXDynamic, CosineByStep
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.files import atomic_folder
from jaxmotion.foundation.types import Array, Params
from jaxmotion.models.causal_codec import CausalCodec
from jaxmotion.systems.control import ControlValues, combinations, filename_suffix, sweeps
from jaxmotion.systems.export import SAFETENSORS, Export, ExportableTokenizer, Exporter, ExportJob, flat_parameters
from jaxmotion.systems.motionstone import export_check as report
from jaxmotion.systems.motionstone.injection import FirstFrame, ScoreEmbedding
from jaxmotion.systems.motionstone.intensity import METER
from jaxmotion.systems.text import T5Tokens
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.diffusers_folder import Component, Pipeline, files_in, write_json
from jaxmotion.weights.diffusers_scheduler import scheduler_of
from jaxmotion.weights.parity import unverified_report
from jaxmotion.weights.rules import ConversionError, Rules, linear, paths_with_rules, tensors_of, under
from jaxmotion.weights.tables.autoencoder3d import AUTOENCODER3D, autoencoder_cogvideox_config
from jaxmotion.weights.tables.cogvideox import COGVIDEOX, COGVIDEOX_1_5, cogvideox_config
from jaxmotion.weights.tables.t5 import T5, t5_config
from jaxmotion.weights.write import write_tensors

if TYPE_CHECKING:
    from jaxmotion.systems.motionstone.motionstone import MotionStone

CODE = Path(__file__).parent / "pytorch"
"""Folder of PyTorch files that ship with exports of this system."""
LAST_BIAS = "denoiser/time/linear_out/bias"
PRESETS = "presets.safetensors"
CONFIG, REPORT = "jaxmotion_config.json", "export_report.json"
Scores = Mapping[str, float]


def export_motionstone(
    system: MotionStone,
    params: Params,
    sampling: Sampling,
    tokenizer: ExportableTokenizer,
    destination: Path,
    *,
    meta: Json,
    baked: Scores | None = None,
    presets: Sequence[Scores] = (),
    fps: float = 8.0,
    verify: bool = True,
) -> list[Path]:
    """Writes a folder that diffusers loads, whole or not at all, and returns its files.

    `export_report.json` says how far each network is from ours on the same inputs.

    Args:
        verify: whether to run both implementations, which needs PyTorch, diffusers and transformers.
        params: the whole tree, in the precision that the files will have.
        baked: one setting of the dials, for the stock `CogVideoXImageToVideoPipeline`. Without it the folder ships a
            pipeline with both dials, which needs `trust_remote_code=True`.
        fps: of the clips that it was trained on, for the card.
        presets: settings whose vectors are written beside it, as wide as the time embedding: added to
            `transformer.time_embedding.linear_2.bias` of the unbaked model each does what baking does.

    Raises:
        FileExistsError: the destination is there already.
        ValueError: a part of the system has no form that diffusers can load, or there is no such dial.
        VerificationError: a part differs by more than it may; the folder and its report are there to look at.
    """
    everything = flat_parameters(system.build().init, params)
    flat = {path: array for path, array in everything.items() if not path.startswith(f"{METER}/")}  # only for training
    vectors = {
        filename_suffix(system.controls, settings, "_").removeprefix("_"): score_vector(system, params, settings)
        for settings in presets
    }
    vector = None if baked is None else score_vector(system, params, baked)
    if vector is not None:
        bias = np.asarray(flat[LAST_BIAS])
        flat = {**flat, LAST_BIAS: (bias.astype(np.float32) + vector).astype(bias.dtype)}
    pipeline = pipeline_of(system, flat, sampling, tokenizer, baked=baked is not None)
    with atomic_folder(destination) as folder:
        pipeline.write_into(folder)
        write_json(folder / CONFIG, meta)
        if vectors:
            write_tensors(folder, Path(PRESETS).stem, vectors)
        if verify:
            found = report.verify(folder, system, params, vector)
        else:
            found = unverified_report(report.parts_of(system, baked=baked is not None), "it was not asked for")
        write_json(folder / REPORT, found.to_json())
        (folder / "README.md").write_text(_card(system, sampling, meta, baked, fps))
    found.check(destination / REPORT)
    return files_in(destination)


def score_vector(system: MotionStone, params: Params, settings: Scores) -> np.ndarray:
    """float32 [E]: what these scores add to the time embedding; a dial that is not named is at its default.

    Raises:
        ValueError: there is no such dial, or a score is outside 1..10.
    """
    unknown = set(settings) - set(system.controls)
    if unknown:
        raise ValueError(f"There is no dial {', '.join(sorted(unknown))}; there are {', '.join(system.controls)}.")
    for name, value in settings.items():
        if not 1 <= value <= 10:
            raise ValueError(f"The {name} score is from 1 to 10; got {value:g}.")
    total = jnp.zeros((1, system.transformer.time_features))
    for score in system.scores:
        value = settings.get(score.entry, system.controls[score.entry].default)
        total = total + score.vector(params, jnp.array([value], jnp.float32))
    return np.asarray(total[0], np.float32)


def pipeline_of(
    system: MotionStone, flat: Mapping[str, Array], sampling: Sampling, tokenizer: ExportableTokenizer, *, baked: bool
) -> Pipeline:
    """The pipeline that makes the clips of this system.

    Raises:
        ValueError: a part of the system has no form that diffusers can load; the message says which and why.
    """
    codec, image, text = _codec(system), _one(system, FirstFrame), _one(system, T5Tokens)
    if (text.encoder.vocabulary, text.encoder.length) != (tokenizer.vocabulary, tokenizer.length):
        raise ValueError(
            f"The text encoder reads {text.encoder.length} tokens of a vocabulary of {text.encoder.vocabulary}; the "
            f"tokenizer makes {tokenizer.length} of {tokenizer.vocabulary}."
        )
    name, arguments = scheduler_of(system.process, sampling.sampler)
    inverted = not np.isclose(image.rescale, 1.0)
    if inverted and not np.isclose(image.rescale, codec.sizes.scaling**-2):
        raise ValueError(f"Pictures are rescaled by {image.rescale:g}; diffusers knows 1 and 1 / scaling^2 only.")
    components = {
        "tokenizer": tokenizer.export(),
        "text_encoder": Component(
            "transformers",
            "T5EncoderModel",
            t5_config(text.encoder),
            tensors=_tensors_of_part("text_encoder", T5, flat),
        ),
        "vae": Component(
            "diffusers",
            "AutoencoderKLCogVideoX",
            autoencoder_cogvideox_config(codec.sizes, system.size, inverted=inverted),
            tensors=_tensors_of_part("codec", AUTOENCODER3D, flat),
        ),
        "transformer": Component(
            "diffusers",
            "CogVideoXTransformer3DModel",
            cogvideox_config(system.transformer),
            tensors=_tensors_of_part(
                "denoiser", COGVIDEOX if system.transformer.patch[0] == 1 else COGVIDEOX_1_5, flat
            ),
        ),
        "scheduler": Component("diffusers", name, config_of(name, **arguments), "scheduler_config.json"),
    }
    if baked and text.null == "zeros":
        raise ValueError(
            "This model was trained with zeros for no text (T5Tokens.null); the stock pipeline takes features of the "
            "empty caption. Export it with dials (diffusers), whose pipeline takes zeros."
        )
    if baked:
        return Pipeline("diffusers", "CogVideoXImageToVideoPipeline", components, {})
    scores = {
        score.entry: {
            "width": score.width,
            "share": score.time_channels,
            "default": system.controls[score.entry].default,
        }
        for score in system.scores
    }
    tensors = {}
    for score in system.scores:
        tensors |= _tensors_of_part(score.part, _score_rules(score), flat)
    config = config_of("MotionScores", features=system.transformer.time_features, scores=scores)
    components["motion_scores"] = Component("motion_scores", "MotionScores", config, tensors=tensors, code=CODE)
    return Pipeline("motionstone_pipeline", "MotionStonePipeline", components, {"null_text": text.null}, CODE)


def _score_rules(score: ScoreEmbedding) -> Rules:
    return (*linear(f"{score.entry}.linear_1", "linear_in"), *linear(f"{score.entry}.linear_2", "linear_out"))


def _tensors_of_part(part: str, rules: Rules, flat: Mapping[str, Array]) -> dict[str, Any]:
    """The tensors of a part; every parameter of it must have its rule."""
    table = under("", f"{part}/", rules)
    mine = {path: array for path, array in flat.items() if path.startswith(f"{part}/")}
    left = set(mine) - paths_with_rules(table, mine)
    if left:
        raise ConversionError(unexpected=sorted(left), source="What an export writes")
    return dict(tensors_of(table, mine))


def _codec(system: MotionStone) -> CausalCodec:
    if not isinstance(system.codec, CausalCodec):
        raise ValueError(
            f"CogVideoX's pipelines need its autoencoder; this system has {type(system.codec).__name__}, as the tiny "
            "sizes have. Export it as safetensors."
        )
    return system.codec


def _one(system: MotionStone, kind: type) -> Any:
    """The conditioner of that class."""
    found = [each for each in system.conditioners.values() if isinstance(each, kind)]
    if len(found) != 1:
        raise ValueError(f"An exported MotionStone has one {kind.__name__}; this system has {len(found)}.")
    return found[0]


def _card(system: MotionStone, sampling: Sampling, meta: Json, baked: Scores | None, fps: float) -> str:
    height, width = system.size
    if baked is None:
        loading = (
            "pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True, torch_dtype=torch.bfloat16)",
            ", ".join(f"{name}=5.0" for name in system.controls) + ", ",
        )
    else:
        loading = ("pipe = CogVideoXImageToVideoPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16)", "")
    dynamic = ", use_dynamic_cfg=True" if isinstance(sampling.guidance_schedule, CogVideoXDynamic) else ""
    kind = "DiffusionPipeline" if baked is None else "CogVideoXImageToVideoPipeline"
    setting = "" if baked is None else f"Baked in: {', '.join(f'{k} {v:g}' for k, v in baked.items())}.\n"
    return f"""---
library_name: diffusers
pipeline_tag: image-to-video
tags: [image-to-video, motionstone, motion-control, jaxmotion]
---
# MotionStone: a photo and a sentence become a clip that moves as much as was asked

{system.frames} frames of {width} x {height} px, after [MotionStone](https://arxiv.org/abs/2412.05848) on CogVideoX;
trained with jaxmotion, which is JAX, and exported to PyTorch. Scores run from 1 (still) to 10 (one frame diagonal per
second). {setting}
```python
import torch
from diffusers import {kind}
from diffusers.utils import export_to_video, load_image

{loading[0]}
pipe.enable_model_cpu_offload()
pipe.vae.enable_tiling()
clip = pipe(load_image("photo.jpg"), "a dog runs along the beach", {loading[1]}
            height={height}, width={width}, num_frames={system.frames},
            num_inference_steps={sampling.sampler.steps}, guidance_scale={sampling.guidance:g}{dynamic}).frames[0]
export_to_video(clip, "clip.mp4", fps={fps:g})
```
{_card_notes(system, sampling, baked)}

<details><summary>training configuration</summary>

```json
{json.dumps(meta, indent=2)}
```

</details>
"""


def _card_notes(system: MotionStone, sampling: Sampling, baked: Scores | None) -> str:
    """Returns the differences between our sampling and the exported pipeline's."""
    guided = {name: scale for name, scale in sampling.scales(system.guidable).items() if name in system.controls}
    notes = ""
    if sampling.guidance <= 1.0 and sampling.guidance != sampling.guidance_schedule.unguided:
        notes += f"""
jaxmotion sampled this model with guidance {sampling.guidance:g}; diffusers guides only where `guidance_scale` is above
1.
"""
    if isinstance(sampling.guidance_schedule, CosineByStep):
        notes += """
jaxmotion sampled this model with guidance that rises step by step; `use_dynamic_cfg` of diffusers is another schedule,
and a plain `guidance_scale` is the nearest that its pipeline has.
"""
    if baked is not None:
        notes += """
The scores are a part of the last bias of the time embedding, so both branches of the guidance have them. That is what
jaxmotion samples as long as the scores themselves are not guided.
"""
    if baked is not None and guided:
        scales = ", ".join(f"{name} ({scale:g})" for name, scale in guided.items())
        notes += f"""
jaxmotion sampled this model with guidance on {scales}, which this pipeline has not: its clips follow the scores less
closely. The export with dials has it (`motion_guidance`).
"""
    return notes


def _write(job: ExportJob[MotionStone], baked: Scores | None) -> list[Path]:
    return export_motionstone(
        job.system,
        job.params,
        job.sampling,
        job.tokenizer,
        job.destination,
        meta=job.meta,
        baked=baked,
        presets=[_numbers(values) for values in sweeps(job.system.controls)],
        fps=job.fps,
        verify=job.verify,
    )


def _write_with_controls(job: ExportJob[MotionStone]) -> list[Path]:
    return _write(job, None)


def _write_baked(job: ExportJob[MotionStone]) -> list[Path]:
    requested = {name: (value,) for name, value in job.controls.items()}
    return _write(job, _numbers(combinations(job.system.controls, requested)[0]))


def _numbers(values: ControlValues) -> Scores:
    """Returns control values, all of which are numbers here."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


EXPORTS: dict[str, Exporter] = {
    "diffusers": Export("a folder that DiffusionPipeline.from_pretrained loads, with its report", _write_with_controls),
    "diffusers-baked": Export(
        "one setting of the scores as a stock CogVideoXImageToVideoPipeline", _write_baked, fixes_controls=True
    ),
    "safetensors": SAFETENSORS,
}
