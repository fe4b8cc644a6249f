"""Exported pipelines are saved, given another scheduler, and kept small as those of diffusers are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant, CosineByStep
from jaxmotion.diffusion.process import Process
from jaxmotion.diffusion.sampler import DDIM, SDEDPMSolverPP
from jaxmotion.diffusion.schedule import scaled_linear, snr_shift, zero_terminal_snr
from jaxmotion.systems.livephoto import export_parts
from jaxmotion.systems.livephoto.model_card import pipeline_card
from jaxmotion.weights.diffusers_scheduler import scheduler_of
from jaxmotion.weights.parity import Report
from tests.support.exports import DIFFUSED, FOUR_CHANNELS, Case, frames_elsewhere, write_photo

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.support.exported_pipelines import BOTH, Exported, load_pipeline, seed

pytestmark = pytest.mark.usefixtures("one_thread")

# Schedulers


@pytest.mark.parametrize("name", BOTH)
def test_euler_goes_where_ddim_goes(exports: dict[str, Exported], name: str) -> None:
    """The first noise times `init_noise_sigma`; without it they are 0.9 apart."""
    exported, steps = exports[name], {"livephoto": 20, "motionstone": 50}[name]
    asked = {"num_inference_steps": steps, "guidance_scale": 1.0}
    ddim = exported(**asked)
    scheduler = exported.pipe.scheduler
    try:
        exported.pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(scheduler.config)
        euler = exported(**asked)
        sigmas = exported.pipe.scheduler.sigmas.tolist()
        own = exported(sigmas=sigmas, guidance_scale=1.0)
        exported.pipe.scheduler = diffusers.DDPMScheduler.from_config(scheduler.config)
        ancestral = exported()
        times = exported.pipe.scheduler.timesteps.tolist()
        custom = exported(timesteps=times, num_inference_steps=None)
    finally:
        exported.pipe.scheduler = scheduler
    assert (euler - ddim).norm() / ddim.norm() < 0.02
    assert (own - euler).norm() / euler.norm() < 0.01  # times are read off the noise levels
    assert torch.equal(custom, ancestral)
    assert exported.pipe.num_timesteps == 2


OTHERS = (
    "DDIM DDPM DPMSolverMultistep DPMSolverSinglestep UniPCMultistep DEISMultistep EulerDiscrete "
    "EulerAncestralDiscrete HeunDiscrete KDPM2Discrete LMSDiscrete PNDM LCM TCD CogVideoXDDIM CogVideoXDPM"
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS.split())
def test_every_scheduler_of_diffusers_runs(exported: Exported, kind: str) -> None:
    scheduler = exported.pipe.scheduler
    try:
        exported.pipe.scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(scheduler.config)
        assert torch.isfinite(exported(num_inference_steps=6)).all()
    finally:
        exported.pipe.scheduler = scheduler


def test_a_scheduler_of_another_kind_of_model_is_refused(exported: Exported) -> None:
    scheduler = exported.pipe.scheduler
    try:
        exported.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler is for other models"):
            exported()
    finally:
        exported.pipe.scheduler = scheduler


@pytest.mark.parametrize("sampler", [DDIM(5), SDEDPMSolverPP(5)], ids=["ddim", "sde"])
def test_a_scheduler_made_of_ours_has_the_shifted_noise_levels(sampler: Any) -> None:
    """Only schedulers of CogVideoX know `snr_shift_scale`; others left it out, in silence."""
    process = Process(zero_terminal_snr(snr_shift(scaled_linear(), 3.0)), "v")
    kind, config = scheduler_of(process, sampler)
    ours = getattr(diffusers, kind).from_config(config)
    euler = diffusers.EulerDiscreteScheduler.from_config(ours.config)
    np.testing.assert_allclose(ours.alphas_cumprod, process.schedule.alpha_bar, rtol=3e-5, atol=1e-7)
    np.testing.assert_allclose(euler.alphas_cumprod, process.schedule.alpha_bar, rtol=3e-5, atol=1e-7)


# Outputs and memory


def test_forms_of_output_are_the_same_clip(exported: Exported) -> None:
    arrays = exported(output_type="np")
    tensors, (pictures,) = exported(output_type="pt"), exported(output_type="pil")
    np.testing.assert_array_equal(tensors.movedim(2, -1).numpy(), arrays)
    np.testing.assert_allclose(np.stack(pictures) / 255.0, arrays[0], atol=0.51 / 255)
    asked = {"prompt": "a dog runs", "num_inference_steps": 2, "generator": seed(0), "output_type": "np"}
    (frames,) = exported.pipe(exported.photo, return_dict=False, **asked)
    np.testing.assert_array_equal(frames, arrays)


def test_latents_that_are_given_are_the_noise(exported: Exported) -> None:
    """LivePhoto draws nothing else; CogVideoX draws the latent of its photo first."""
    shape = exported().shape
    noise = torch.randn(shape, generator=seed(7))
    found = exported(latents=noise, num_inference_steps=1)
    assert torch.equal(found, exported(latents=noise.double(), num_inference_steps=1))
    assert not torch.equal(found, exported(latents=-noise, num_inference_steps=1))
    if exported.name == "livephoto":
        assert torch.equal(found, exported(generator=seed(7), num_inference_steps=1))


def test_slices_and_tiles_are_those_of_the_autoencoder(exported: Exported) -> None:
    vae, asked = exported.pipe.vae, {"num_videos_per_prompt": 2, "num_inference_steps": 1, "output_type": "pt"}
    before = exported(**asked)
    exported.pipe.enable_vae_slicing()
    assert vae.use_slicing
    torch.testing.assert_close(exported(**asked), before, atol=1e-4, rtol=0)
    exported.pipe.disable_vae_slicing()
    exported.pipe.enable_vae_tiling()
    assert vae.use_tiling
    if exported.name == "livephoto":  # tiles of CogVideoX's autoencoder are wider than its kernels at full size only
        assert torch.isfinite(exported(**asked)).all()
    exported.pipe.disable_vae_tiling()
    assert {vae.use_slicing, vae.use_tiling} == {False}


def test_every_network_is_in_the_sequence_of_offloading(exported: Exported) -> None:
    networks = {name for name, part in exported.pipe.components.items() if isinstance(part, torch.nn.Module)}
    order = exported.pipe.model_cpu_offload_seq.split("->")
    assert networks == {*order, *exported.pipe._exclude_from_cpu_offload}
    assert len(order) == len(set(order))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_loaded_and_near(exported: Exported, kind: Any, plain: dict[str, Any]) -> None:
    pipe = load_pipeline(exported.folder, torch_dtype=kind)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {network.dtype for network in networks} == {kind}
    half = dataclasses.replace(exported, pipe=pipe)(num_inference_steps=1)
    assert (half.float() - exported(num_inference_steps=1)).norm() / half.float().norm() < 0.2  # random networks


def test_free_init_with_one_round_changes_nothing(exports: dict[str, Exported], plain: dict[str, Any]) -> None:
    exported = exports["livephoto"]
    pipe = exported.pipe
    try:
        pipe.enable_free_init(num_iters=1)
        assert torch.equal(exported(), plain["livephoto"])
        pipe.enable_free_init(num_iters=2)
        assert not torch.equal(exported(), plain["livephoto"])
        scheduler, pipe.scheduler = pipe.scheduler, diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="FreeInit needs latents of variance 1, which a EulerDiscreteScheduler"):
            exported()
        pipe.scheduler = scheduler
    finally:
        pipe.disable_free_init()
    assert torch.equal(exported(), plain["livephoto"])
    with pytest.raises(NotImplementedError, match="no FreeInit"):
        exports["motionstone"].pipe.enable_free_init()
    for each in exports.values():
        with pytest.raises(NotImplementedError, match="FreeNoise makes clips longer"):
            each.pipe.enable_free_noise()


# Files


def test_what_is_saved_is_loaded_again(exported: Exported, plain: dict[str, Any], tmp_path: Path) -> None:
    exported.pipe.save_pretrained(tmp_path / "again", max_shard_size="100KB")
    index, saved = (json.loads((f / "model_index.json").read_text()) for f in (exported.folder, tmp_path / "again"))
    assert {name: saved[name] for name in index if name != "_diffusers_version"} == {
        name: value for name, value in index.items() if name != "_diffusers_version"
    }
    code = {path.relative_to(exported.folder) for path in exported.folder.rglob("*.py")}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.py")} == code
    again = dataclasses.replace(exported, pipe=load_pipeline(tmp_path / "again"))
    for name, part in exported.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            saved_part = again.pipe.components[name].state_dict()
            assert all(torch.equal(saved_part[key], value) for key, value in part.state_dict().items())
    torch.testing.assert_close(again(), plain[exported.name], atol=1e-3, rtol=0)  # files are read to other places
    assert torch.equal(exported(), plain[exported.name])  # saving changed nothing
    assert set(exported.pipe.components) == set(again.pipe.components)
    other = type(exported.pipe).from_pipe(exported.pipe)
    assert torch.equal(dataclasses.replace(exported, pipe=other)(), plain[exported.name])


@pytest.mark.slow
def test_what_is_saved_is_loaded_by_a_process_that_knows_nothing_of_us(exports, tmp_path: Path) -> None:
    exported = exports["livephoto"]
    exported.pipe.save_pretrained(tmp_path / "again")
    write_photo(tmp_path / "photo.png")
    cases = {
        str(number): Case(FOUR_CHANNELS, DIFFUSED, {}, folder, {"prompt": "a kite"})
        for number, folder in enumerate((exported.folder, tmp_path / "again"))
    }
    first, second = frames_elsewhere(cases, tmp_path / "photo.png", tmp_path).values()
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_files_of_an_export_stand_alone(exports: dict[str, Exported]) -> None:
    for exported in exports.values():
        for path in exported.folder.rglob("*.py"):
            assert "jaxmotion." not in path.read_text()


def test_a_schedule_of_the_guidance_goes_along(exports: dict[str, Exported]) -> None:
    """CogVideoX's is an argument of the pipeline; the other has no form in diffusers, which the card says."""
    index = json.loads((exports["livephoto"].folder / "model_index.json").read_text())
    assert index["defaults"]["use_dynamic_cfg"] is False
    for schedule, kept in ((Constant(), True), (CogVideoXDynamic(), True), (CosineByStep(), False)):
        sampling = dataclasses.replace(DIFFUSED, guidance_schedule=schedule)
        defaults = export_parts._arguments(FOUR_CHANNELS, sampling)["defaults"]
        assert defaults["use_dynamic_cfg"] == isinstance(schedule, CogVideoXDynamic)
        assert ("rises step by step" not in pipeline_card(FOUR_CHANNELS, sampling, {}, Report({}, {}))) == kept
