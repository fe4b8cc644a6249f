"""MotionStone exported: the stock pipeline of diffusers and ours, on the same noise, picture and text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from einops import rearrange
from PIL import Image

from jaxmotion.data.tokenize import HashTokenizer, T5Tokenizer
from jaxmotion.diffusion.guidance import CogVideoXDynamic, Constant, CosineByStep
from jaxmotion.diffusion.sampler import DDIM
from jaxmotion.diffusion.sampling import Sampling
from jaxmotion.foundation.entries import IMAGE, TEXT
from jaxmotion.parallel.sharding import paths
from jaxmotion.systems.motionstone import export as motionstone
from jaxmotion.systems.motionstone import export_check as motionstone_report
from jaxmotion.systems.motionstone.export import export_motionstone, pipeline_of, score_vector
from jaxmotion.systems.motionstone.injection import FirstFrame
from jaxmotion.systems.pretrained import backbone, text_encoder, vae
from jaxmotion.weights.parity import VerificationError
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.exported_motionstone import CASES, TEXTS, random_params, system_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

ASKED = {"object": 8.0, "camera": 2.5}
STEPS = 3
CONSTANT = Constant()
SPIECE = Path(__file__).parents[3] / "shared" / "weights" / "tokenizers" / "t5" / "spiece.model"


@pytest.fixture(scope="module", params=CASES, ids=CASES.keys())
def trained(request):
    """(system, parameters)."""
    sizes, frames, image = CASES[request.param]
    system = system_of(sizes, frames, **image)
    return system, random_params(system)


@pytest.fixture(autouse=True)
def means(monkeypatch):
    """diffusers draws the latent of the picture; we take its mean. The draw is not what is compared here."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.fixture
def request_batch(trained):
    """A picture, a text, and what is asked for."""
    system, _ = trained
    picture = np.random.default_rng(1).integers(0, 256, (1, *system.size, 3), np.uint8)
    text = np.array([[5, 17, 900, 1, 0, 0]], np.int32)
    return {IMAGE: picture, TEXT: text, **{name: np.array([value], np.float32) for name, value in ASKED.items()}}


def ours(trained, batch, sampling):
    system, params = trained
    model = system.build()
    sample = jax.jit(lambda params, batch, keys: model.sample_latents(params, batch, keys, sampling))
    return np.asarray(sample(params, batch, jax.random.split(jax.random.key(3), 1)))


def theirs(trained, batch, folder, sampling, **more):
    """What a pipeline of diffusers makes of the same, opened without its tokenizer."""
    system, _ = trained
    model = system.build()
    noise = model.noise(jax.random.split(jax.random.key(3), 1))
    local = {"trust_remote_code": True} if more.pop("remote", False) else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, tokenizer=None, **local)
    pipe.set_progress_bar_config(disable=True)
    empty = more.pop("null", np.asarray(model.conditioners["text"].empty)[None])
    with torch.no_grad():
        prompt, negative = (
            None if ids is None else pipe.text_encoder(torch.tensor(ids, dtype=torch.long))[0]
            for ids in (batch[TEXT], empty)
        )
    latents = pipe(
        Image.fromarray(batch[IMAGE][0]),
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        height=system.size[0],
        width=system.size[1],
        num_frames=system.frames,
        num_inference_steps=sampling.sampler.steps,
        guidance_scale=sampling.guidance,
        latents=torch.tensor(np.asarray(rearrange(noise, "B T h w C -> B T C h w"))),
        output_type="latent",
        max_sequence_length=TEXTS.length,
        **more,
    ).frames
    return rearrange(latents.numpy(), "B T C h w -> B T h w C")[:, model.latent_shape.pad_frames :], pipe


def export(trained, folder, sampling, tokens=None, **kwargs):
    system, params = trained
    tokens = HashTokenizer(TEXTS.vocabulary, TEXTS.length) if tokens is None else tokens
    kwargs = {"verify": False, **kwargs}
    return export_motionstone(system, params, sampling, tokens, folder, meta={"made": "in a test"}, **kwargs)


def sampled(guidance=6.0, guidance_scales=(), steps=STEPS, schedule=CONSTANT):
    sampler = DDIM(steps, spacing="trailing", steps_offset=0, final="clean")
    return Sampling(sampler, guidance, guidance_scales=guidance_scales, guidance_schedule=schedule)


@pytest.mark.parametrize(
    ("steps", "schedule"),
    [
        (1, Constant()),
        pytest.param(STEPS, Constant(), marks=pytest.mark.slow),
        (STEPS, CogVideoXDynamic()),
    ],
)
def test_the_stock_pipeline_with_baked_scores_is_ours(trained, request_batch, tmp_path, steps, schedule):
    """One step, a whole short sampling, one with the dynamic guidance of the full config; and the scores matter."""
    sampling = sampled(steps=steps, schedule=schedule)
    export(trained, tmp_path / "out", sampling, baked=ASKED)
    dynamic = isinstance(schedule, CogVideoXDynamic)
    found, pipe = theirs(trained, request_batch, tmp_path / "out", sampling, use_dynamic_cfg=dynamic)
    assert type(pipe).__name__ == "CogVideoXImageToVideoPipeline"
    mine = ours(trained, request_batch, sampling)
    assert np.abs(mine - found).max() <= 1e-3 * np.abs(mine).max()
    other = ours(trained, {**request_batch, "object": np.array([1.0], np.float32)}, sampling)
    assert np.abs(mine - other).max() > 0.02 * np.abs(mine).max()
    video = pipe.decode_latents(torch.tensor(rearrange(mine, "B T h w C -> B T C h w"))).detach().numpy()
    system, params = trained
    pieces = list(system.codec.stream(params["codec"], mine))
    shown = np.concatenate(pieces, axis=1)
    assert np.abs(rearrange(video, "B C T H W -> B T H W C") - shown).max() <= 1e-3 * np.abs(shown).max()


@pytest.mark.parametrize(
    "others",
    [
        (),
        pytest.param((("camera", 3.0),), marks=pytest.mark.slow),
        pytest.param((("object", 2.0), ("camera", 1.0)), marks=pytest.mark.slow),
        (("object", 2.0), ("camera", 3.0)),
    ],
)
def test_the_pipeline_with_dials_is_ours(trained, request_batch, tmp_path, others):
    sampling = sampled(2.0, others)
    export(trained, tmp_path / "out", sampling)
    found, _ = theirs(
        trained, request_batch, tmp_path / "out", sampling, remote=True, motion_guidance=dict(others), **ASKED
    )
    mine = ours(trained, request_batch, sampling)
    assert np.abs(mine - found).max() <= 1e-3 * np.abs(mine).max()


def test_zeros_for_no_text_go_along(trained, request_batch, tmp_path):
    """The pipeline with dials takes them, unless a negative prompt is given; the stock one would not: refused."""
    system, params = trained
    texts = {**system.conditioners, "text": dataclasses.replace(system.conditioners["text"], null="zeros")}
    zeros = (dataclasses.replace(system, conditioners=texts), params)
    sampling = sampled(guidance=6.0, steps=1)
    export(zeros, tmp_path / "out", sampling)
    expected = ours(zeros, request_batch, sampling)
    found, pipe = theirs(zeros, request_batch, tmp_path / "out", sampling, remote=True, null=None, **ASKED)
    assert pipe.config.null_text == "zeros"
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    assert np.abs(ours(trained, request_batch, sampling) - expected).max() > 1e-2 * np.abs(expected).max()
    with pytest.raises(ValueError, match=r"trained with zeros for no text.*Export it with dials"):
        export(zeros, tmp_path / "baked", sampling, baked=ASKED)


def test_what_offloads_the_transformer_stays(trained, request_batch, tmp_path):
    """At the end of a clip diffusers takes the networks off the device and wraps their `forward` anew."""
    sampling = sampled(2.0, (("camera", 3.0),), steps=1)
    export(trained, tmp_path / "out", sampling)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", tokenizer=None, trust_remote_code=True)
    order = pipe.model_cpu_offload_seq.split("->")
    assert order.index("motion_scores") < order.index("text_encoder") < order.index("transformer")
    plain, wrapped = pipe.transformer.forward, []

    def wrap():
        wrapped.append(lambda *args, **kwargs: plain(*args, **kwargs))
        pipe.transformer.forward = wrapped[-1]

    wrap()
    pipe.maybe_free_model_hooks = wrap
    embeds = torch.zeros(1, TEXTS.length, TEXTS.features)
    height, width = trained[0].size
    pipe(
        Image.fromarray(request_batch[IMAGE][0]),
        prompt_embeds=embeds,
        negative_prompt_embeds=embeds,
        height=height,
        width=width,
        num_frames=trained[0].frames,
        num_inference_steps=1,
        output_type="latent",
        max_sequence_length=TEXTS.length,
        motion_guidance={"camera": 3.0},
    )
    assert len(wrapped) == 2
    assert pipe.transformer.forward is wrapped[-1]
    assert not pipe.transformer._forward_hooks
    assert not pipe.transformer.time_embedding._forward_hooks


@pytest.mark.parametrize("baked", [None, ASKED], ids=["dials", "baked"])
def test_every_network_is_verified_and_the_report_says_by_how_much(trained, tmp_path, baked):
    export(trained, tmp_path / "out", sampled(), baked=baked, verify=True)
    parts = json.loads((tmp_path / "out" / "export_report.json").read_text())["parts"]
    learned = {"positions"} if trained[0].transformer.positions == "rotary_and_learned" else set()
    scores = set() if baked else {"motion_scores"}
    assert set(parts) == {"text_encoder", "vae_encode", "vae_decode", "transformer"} | scores | learned
    assert {part["status"] for part in parts.values()} == {"verified"}
    found = {name: part["largest_relative_difference"] for name, part in parts.items()}
    assert all(found.pop(name) == 0 for name in learned)
    assert all(0 < difference < 1e-4 for difference in found.values())


def test_a_part_that_does_not_fit_is_said(trained, tmp_path, monkeypatch):
    """The rest of the folder is there all the same."""

    def full(self):
        raise MemoryError

    monkeypatch.setattr(motionstone_report._Parity, "transformer", full)
    export(trained, tmp_path / "out", sampled(), baked=ASKED, verify=True)
    parts = json.loads((tmp_path / "out" / "export_report.json").read_text())["parts"]
    assert parts["transformer"]["reason"] == "there is not enough memory to run it in float32"
    assert parts["text_encoder"]["status"] == "verified"


@pytest.mark.parametrize("schedule", [Constant(), CosineByStep(), CogVideoXDynamic()])
def test_the_card_says_how_its_clips_are_made(trained, tmp_path, schedule):
    system, _ = trained
    export(
        trained, tmp_path / "out", sampled(guidance_scales=(("camera", 2.0),), schedule=schedule), baked=ASKED, fps=16.0
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"height={system.size[0]}, width={system.size[1]}, num_frames={system.frames}" in card
    assert "fps=16)" in card
    assert ("use_dynamic_cfg=True" in card) == isinstance(schedule, CogVideoXDynamic)
    assert ("rises step by step" in card) == isinstance(schedule, CosineByStep)
    assert "both branches of the guidance have them" in card
    assert "guidance on camera (2), which this pipeline has not" in card


def test_a_wrong_network_is_found(trained, tmp_path, monkeypatch):
    """A transformer whose scores were baked in twice is not ours."""
    taken = motionstone._tensors_of_part

    def wrong(part, rules, flat):
        found = taken(part, rules, flat)
        if part == "denoiser":
            found["time_embedding.linear_2.bias"] = np.asarray(found["time_embedding.linear_2.bias"]) * 2
        return found

    monkeypatch.setattr(motionstone, "_tensors_of_part", wrong)
    with pytest.raises(VerificationError, match="transformer by"):
        export(trained, tmp_path / "out", sampled(), baked=ASKED, verify=True)
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["parts"]["transformer"]["status"] == (
        "too large"
    )


def test_a_preset_is_what_baking_adds(trained, tmp_path):
    system, params = trained
    presets = [ASKED, {"object": 1.0, "camera": 10.0}]
    export(trained, tmp_path / "dials", sampled(), presets=presets)
    export(trained, tmp_path / "baked", sampled(), baked=ASKED)
    vectors = open_tensors(tmp_path / "dials" / "presets.safetensors")
    assert set(vectors) == {"object08_camera2.5", "object01_camera10"}
    name = "time_embedding.linear_2.bias"
    plain, baked = (np.asarray(open_tensors(tmp_path / kind / "transformer")[name]) for kind in ("dials", "baked"))
    np.testing.assert_allclose(plain + np.asarray(vectors["object08_camera2.5"]), baked, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(score_vector(system, params, ASKED), vectors["object08_camera2.5"], rtol=1e-6)


def test_the_whole_folder_opens_with_its_tokenizer(trained, tmp_path):
    if not SPIECE.is_file():
        pytest.skip("needs T5's pieces, tokenizers/t5/spiece.model of the shared weights")
    pytest.importorskip("sentencepiece")
    export(trained, tmp_path / "out", sampled(), T5Tokenizer(str(SPIECE), TEXTS.length), baked=ASKED)
    pipe = diffusers.CogVideoXImageToVideoPipeline.from_pretrained(tmp_path / "out")
    ids = pipe.tokenizer(
        "A dog.", padding="max_length", max_length=TEXTS.length, truncation=True, return_tensors="np"
    ).input_ids
    np.testing.assert_array_equal(ids, T5Tokenizer(str(SPIECE), TEXTS.length)(["A dog."]))


def test_a_public_folder_in_several_files_is_what_it_was(trained, tmp_path):
    """As the hub has the large sizes: diffusers and transformers cut them into files and write an index."""
    system, params = trained
    export(trained, tmp_path / "out", sampled(), baked=ASKED)
    pipe = diffusers.CogVideoXImageToVideoPipeline.from_pretrained(tmp_path / "out", tokenizer=None)
    pipe.save_pretrained(tmp_path / "public", max_shard_size="40KB")
    for part in ("transformer", "text_encoder", "vae"):
        assert len(list((tmp_path / "public" / part).glob("*-of-*.safetensors"))) > 1
        assert list((tmp_path / "public" / part).glob("*.index.json"))
    shapes, own = paths(jax.eval_shape(system.build().init, jax.random.key(0))), paths(params)
    found: dict[str, Any] = {}
    for source in (backbone, vae, text_encoder):
        found |= source(str(tmp_path / "public")).load(system, shapes, found)
    assert {path.split("/")[0] for path in own} - {path.split("/")[0] for path in found} == {
        "object_score", "camera_score"
    }  # fmt: skip
    for path, array in found.items():
        if path != motionstone.LAST_BIAS:  # the scores are in it
            np.testing.assert_array_equal(np.asarray(array), own[path])


def test_what_has_no_form_is_said(trained, tmp_path):
    system, params = trained
    tokens = HashTokenizer(TEXTS.vocabulary, TEXTS.length)
    with pytest.raises(ValueError, match="no dial speed; there are object, camera"):
        export(trained, tmp_path / "a", sampled(), baked={"speed": 3.0})
    with pytest.raises(ValueError, match="object score is from 1 to 10; got 11"):
        export(trained, tmp_path / "b", sampled(), baked={"object": 11.0})
    odd = dataclasses.replace(system, conditioners={**system.conditioners, "image": FirstFrame(rescale=3.0)})
    with pytest.raises(ValueError, match="rescaled by 3"):
        pipeline_of(odd, paths(params), sampled(), tokens, baked=True)
    assert not list(tmp_path.iterdir())


def test_rising_guidance_is_no_other_guidance(trained, request_batch):
    """They are told apart."""
    flat, rising = sampled(), dataclasses.replace(sampled(), guidance_schedule=CosineByStep())
    assert np.abs(ours(trained, request_batch, flat) - ours(trained, request_batch, rising)).max() > 1e-3
