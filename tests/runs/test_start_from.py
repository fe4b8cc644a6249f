"""Starting from pretrained weights: what comes in computes what it did, and what is new adds nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import diffusers
from einops import rearrange, repeat

from jaxmotion.data.synthetic_clips import SyntheticClips
from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.foundation.types import Condition
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.autoencoder import KLCodec, KLSizes
from jaxmotion.models.clip import CLIPTextSizes
from jaxmotion.models.dinov2 import DINOv2Sizes
from jaxmotion.models.stable_diffusion import stable_diffusion_unet
from jaxmotion.models.unet import UNetSizes
from jaxmotion.parallel.mesh import make_mesh
from jaxmotion.parallel.sharding import paths
from jaxmotion.runs import initial, train
from jaxmotion.runs import trained as run
from jaxmotion.runs.experiment import Experiment, from_json, load, override, to_json
from jaxmotion.runs.start_from import PretrainedRun
from jaxmotion.systems import pretrained
from jaxmotion.systems.livephoto.content import ContentTokens
from jaxmotion.systems.livephoto.intensity import FrameMap, LevelMap
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.reweighting import ReweightedText
from jaxmotion.systems.lora import PretrainedLoRA
from jaxmotion.systems.pretrained import Pretrained, PretrainedSource
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.systems.text import TextTokens
from jaxmotion.training.config import TrainConfig
from jaxmotion.training.state import with_pretrained
from jaxmotion.training.step import build_program
from jaxmotion.weights.rules import ConversionError, to_jax
from jaxmotion.weights.tables import stable_diffusion as rules
from jaxmotion.weights.tensor_files import open_tensors
from jaxmotion.weights.write import write_tensors
from tests.support.public import (
    TWO_STAGES,
    TWO_STAGES_OF_MOTION,
    TWO_STAGES_OF_PIXELS,
    adapter,
    dinov2,
    randomised,
    text,
    unet,
    vae,
)

SIZES = UNetSizes(features=(8, 16), blocks_per_stage=1, attention_stages=(True, False), heads=2, groups=4)
TEXT = CLIPTextSizes(vocabulary=99, length=77, features=32, depth=3, heads=2, hidden=64)
CONTENT = DINOv2Sizes(image_size=28, patch=14, grid=2, features=32, depth=2, heads=2, hidden=128)
FRAMES = 3


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> dict[str, str]:
    """Checkpoints that the references saved, by name of the source."""
    folder = tmp_path_factory.mktemp("public")
    unet(**TWO_STAGES).save_pretrained(folder / "sd" / "unet")
    vae(**TWO_STAGES_OF_PIXELS).save_pretrained(folder / "sd" / "vae")
    text().save_pretrained(folder / "sd" / "text_encoder")
    dinov2().save_pretrained(folder / "dino")
    adapter(**TWO_STAGES_OF_MOTION).save_pretrained(folder / "motion")
    places = {"backbone": "sd", "motion_module": "motion", "vae": "sd", "text_encoder": "sd", "content_encoder": "dino"}
    return {field: str(folder / place) for field, place in places.items()}


def sources(**places: str) -> dict[str, PretrainedSource]:
    return {name: getattr(pretrained, name)(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def experiment(public) -> Experiment:
    """A LivePhoto of the sizes of those checkpoints."""
    size = (16, 16)
    return Experiment(
        system=LivePhoto(
            unet=SIZES,
            codec=KLCodec(KLSizes(features=(8, 16), blocks_per_stage=1, groups=4)),
            conditioners={
                "reference": ReferenceLatent(),
                "frame": FrameMap(),
                "level": LevelMap(edges=tuple(np.linspace(0.1, 0.9, 9).tolist())),
                "content": ContentTokens(CONTENT, features=32),
                "text": ReweightedText(TextTokens(TEXT), heads=2),
            },
            frames=FRAMES,
            size=size,
        ),
        data=SyntheticClips(frames=FRAMES, size=size, object_counts=(0,)),
        tokenizer=HashTokenizer(TEXT.vocabulary, TEXT.length),
        train=TrainConfig(steps=1, batch_size=1, trained=(r"/motion/", r"conv_condition", r"/content/", "reweighting")),
        pretrained=sources(**public),
    )


@pytest.fixture(scope="module")
def params(experiment):
    """Fresh parameters with the public ones in their places."""
    task, mesh = experiment.system.build(), make_mesh(experiment.mesh)
    with jax.set_mesh(mesh):
        state = build_program(task, experiment.train, mesh).initialise()
    return with_pretrained(state, initial.starting_weights(experiment, task)).params("ema")


def as_written(function):
    """Compiled without fusing operations, which rounds sums of several anew where there are more of them."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})


def test_a_fresh_livephoto_is_stable_diffusion_with_animatediff(experiment, params, public):
    """Bit for bit: its own layers are there, with random weights, and add exactly nothing."""
    draw = np.random.default_rng(0).normal
    zt, t = draw(size=(1, FRAMES, 8, 8, 4)).astype(np.float32), np.array([500], np.int32)
    words, patches = (draw(size=(1, 1, n, 32)).astype(np.float32) for n in (77, 4))
    channels = draw(size=(1, FRAMES, 8, 8, 6)).astype(np.float32)

    pair = stable_diffusion_unet(SIZES, after_block={"motion": partial(MotionModule, 2, 4)})
    plain = Condition(tokens={"text": jnp.asarray(words)})
    tensors = {}
    for part in ("backbone", "motion_module"):
        folder = Path(public[part])
        tensors.update(open_tensors(folder / "unet" if part == "backbone" else folder))
    like = jax.eval_shape(pair.init, jax.random.key(0), zt, t, plain)["params"]
    weights = to_jax((*rules.UNET, *rules.MOTION), tensors, like, rules.MOTION_BUFFERS)
    expected = as_written(pair.apply)({"params": weights}, zt, t, plain)

    task = experiment.system.build()
    told = Condition(
        channels=(jnp.asarray(channels),), tokens={"text": jnp.asarray(words), "content": jnp.asarray(patches)}
    )
    ours = as_written(task.denoiser.apply)({"params": params["denoiser"]}, zt, t, told)
    assert np.array_equal(np.asarray(ours), np.asarray(expected))
    assert np.any(params["denoiser"]["down_0_block_0"]["transformer"]["block"]["content"]["attention"]["out"]["kernel"])

    theirs = diffusers.UNetMotionModel.from_unet2d(
        diffusers.UNet2DConditionModel.from_pretrained(Path(public["backbone"]) / "unet"),
        diffusers.MotionAdapter.from_pretrained(public["motion_module"]),
    )
    reference = theirs(
        torch.tensor(rearrange(zt, "B T H W C -> B C T H W")),
        torch.tensor(t),
        torch.tensor(repeat(words, "B 1 L D -> (B T) L D", T=FRAMES)),
    ).sample
    reference = rearrange(reference.detach().numpy(), "B C T H W -> B T H W C")
    assert np.abs(ours - reference).max() <= 1e-4 * np.abs(reference).max()


def test_every_part_starts_from_its_source(params, public):
    for part, folder, name in (
        ("codec", "vae", "encoder.conv_in.bias"),
        ("text_encoder", "text_encoder", "final_layer_norm.bias"),
    ):
        tensor = open_tensors(Path(public["backbone"]) / folder)[name]
        ours = params[part]["encoder"]["conv_in"]["bias"] if part == "codec" else params[part]["norm_out"]["bias"]
        assert np.array_equal(ours, np.asarray(tensor))
    tensor = open_tensors(public["content_encoder"])["layernorm.bias"]
    assert np.array_equal(params["content_encoder"]["norm_out"]["bias"], np.asarray(tensor))
    assert not np.any(params["denoiser"]["conv_condition"]["kernel"])


@pytest.mark.slow
def test_training_starts_from_them_and_goes_on_without_them(experiment, tmp_path, monkeypatch):
    """One step moves what is trained and leaves the rest as it came; continuing reads no source."""
    folder = tmp_path / "run"
    result = train.train(experiment, folder)
    assert result.step == 1
    opened = run.open_run(folder, "raw")
    found = paths(opened.params)
    for path, array in initial.starting_weights(experiment, experiment.system.build()).items():
        moved = np.abs(np.asarray(found[path]) - np.asarray(array)).max()
        assert (0 < moved < 1e-2) if "/motion/" in path and path.endswith("kernel") else moved < 1e-2
        assert "/motion/" in path or moved == 0
    gone = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=2))
    gone = from_json(to_json(gone))

    def refuse(*_):
        raise AssertionError("a run that continues needs no source")

    monkeypatch.setattr(pretrained.Pretrained, "load", refuse)
    assert train.train(gone, folder).step == 2


@pytest.mark.slow
def test_a_run_is_a_source_too(experiment, tmp_path):
    folder = tmp_path / "run"
    train.train(experiment, folder)
    again = dataclasses.replace(experiment, pretrained={"run": PretrainedRun(str(folder), "raw")})
    arrays = initial.starting_weights(again, again.system.build())
    saved = paths(run.open_run(folder, "raw").params)
    assert arrays.keys() == saved.keys()
    assert all(np.array_equal(arrays[path], saved[path]) for path in saved)


def test_a_wrong_source_is_refused_by_name(experiment, public, tmp_path):
    task = experiment.system.build()

    def starting(**places):
        return initial.starting_weights(dataclasses.replace(experiment, pretrained=sources(**places)), task)

    with pytest.raises(
        CheckpointFileError, match=r"(?s)pretrained.backbone: .*vae is an autoencoder.*the denoiser is needed.*a U-Net"
    ):
        starting(backbone=str(Path(public["vae"]) / "vae"))
    with pytest.raises(CheckpointFileError, match="There is no file or folder"):
        starting(vae=str(tmp_path / "none"))
    diffusers.UNet2DConditionModel(
        attention_head_dim=2, norm_num_groups=4, cross_attention_dim=24, **TWO_STAGES
    ).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ConversionError, match=r"narrow \(a U-Net.* 0 missing, 0 unexpected, \d+ of the wrong sh"):
        starting(backbone=str(tmp_path / "narrow"))
    adapter(**TWO_STAGES_OF_MOTION, use_motion_mid_block=True).save_pretrained(tmp_path / "v2")
    with pytest.raises(ConversionError, match=r"v2 .*0 missing, 26 unexpected(.|\n)*mid_block"):
        starting(motion_module=str(tmp_path / "v2"))


def test_what_a_folder_says_is_compared_with_the_experiment(experiment, public, tmp_path, caplog):
    """A v-prediction fine-tune is refused for an experiment that predicts eps, and so on; the flag is named."""
    task = experiment.system.build()
    for name in ("unet", "vae", "scheduler"):
        (tmp_path / name).mkdir()
    for name in ("unet", "vae"):
        shutil.copytree(Path(public["backbone"]) / name, tmp_path / name, dirs_exist_ok=True)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    diffusers.DDIMScheduler(**betas, prediction_type="v_prediction", steps_offset=1).save_pretrained(
        tmp_path / "scheduler"
    )
    source = pretrained.backbone(str(tmp_path))

    def starting(**changes):
        return initial.starting_weights(dataclasses.replace(experiment, **changes), task)

    with pytest.raises(CheckpointFileError) as caught:
        starting(pretrained={"backbone": source})
    assert str(tmp_path / "scheduler" / "scheduler_config.json") in str(caught.value)
    words = 'says prediction_type "v_prediction"; the experiment has "epsilon" (system.process.prediction)'
    assert words in str(caught.value)
    assert "pretrained.backbone: these weights are of another network" in str(caught.value)
    assert "--pretrained.backbone.accepts prediction_type" in str(caught.value)
    assert not caplog.text
    taken = starting(pretrained={"backbone": dataclasses.replace(source, accepts=("prediction_type",))})
    assert any(path.startswith("denoiser/") for path in taken)
    assert not caplog.text

    process = dataclasses.replace(experiment.system.process, prediction="v")
    system = dataclasses.replace(experiment.system, process=process)
    starting(system=system, pretrained={"backbone": source})
    assert not caplog.text
    other = dataclasses.replace(process, schedule=dataclasses.replace(process.schedule, betas="linear"))
    starting(system=dataclasses.replace(system, process=other), pretrained={"backbone": source})
    words = 'beta_schedule "scaled_linear"; the experiment has "linear" (system.process.schedule.betas)'
    assert words in caplog.text

    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    words = r"config.json says scaling_factor 0.5; the experiment has 0.18215 \(system.codec.sizes.scaling\)"
    with pytest.raises(CheckpointFileError, match=words):
        starting(pretrained={"vae": pretrained.vae(str(tmp_path))})
    with pytest.raises(CheckpointFileError, match=words):
        initial.describe(dataclasses.replace(experiment, pretrained={"vae": pretrained.vae(str(tmp_path))}))


def test_an_adapter_with_input_columns_gives_them(experiment, tmp_path):
    randomised(adapter(conv_in_channels=10, **TWO_STAGES_OF_MOTION), 5).save_pretrained(tmp_path / "adapter")
    task = experiment.system.build()
    started = dataclasses.replace(experiment, pretrained=sources(motion_module=str(tmp_path / "adapter")))
    arrays = initial.starting_weights(started, task)
    weight = np.asarray(open_tensors(tmp_path / "adapter")["conv_in.weight"])
    assert np.array_equal(np.asarray(arrays["denoiser/conv_condition/kernel"]), weight[:, 4:].transpose(2, 3, 1, 0))
    assert not any(path.startswith("denoiser/conv_in/") for path in arrays)


def test_a_network_with_fewer_layers_than_the_checkpoint_takes_its_own(experiment, tmp_path):
    """What `takes` leaves out need not exist here; what it does not leave out must."""
    both = diffusers.UNetMotionModel.from_unet2d(unet(**TWO_STAGES), adapter(**TWO_STAGES_OF_MOTION))
    both.save_pretrained(tmp_path / "motion")
    tensors = open_tensors(tmp_path / "motion")
    plain = stable_diffusion_unet(SIZES)
    zt, t = jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1, jnp.int32)
    condition = Condition(tokens={"text": jnp.zeros((1, 1, 77, 32))})
    shapes = paths({"denoiser": jax.eval_shape(plain.init, jax.random.key(0), zt, t, condition)["params"]})
    source = dataclasses.replace(pretrained.backbone(str(tmp_path / "motion")), takes=r"^(?!.*/motion/)")
    found = source.load(experiment.system, shapes, {})
    assert found.keys() == shapes.keys()
    kernel = np.asarray(found["denoiser/conv_in/kernel"])
    assert np.array_equal(kernel, np.asarray(tensors["conv_in.weight"]).transpose(2, 3, 1, 0))
    with pytest.raises(ConversionError, match=r"0 missing, \d+ unexpected(.|\n)*motion_modules"):
        dataclasses.replace(source, takes=r".*").load(experiment.system, shapes, {})
    wider = {**shapes, "denoiser/conv_in/extra": shapes["denoiser/conv_in/bias"]}
    assert dataclasses.replace(source, takes=r"^denoiser/conv_in/").load(experiment.system, wider, {}).keys() == {
        "denoiser/conv_in/kernel",
        "denoiser/conv_in/bias",
    }


def test_what_takes_matches_must_be_there(experiment, public, tmp_path):
    """Only half of the motion modules are in the checkpoint, and all of them are wanted."""
    half = {name: np.asarray(array) for name, array in open_tensors(public["motion_module"]).items() if "down" in name}
    write_tensors(tmp_path, "half", half)
    task = experiment.system.build()
    started = dataclasses.replace(experiment, pretrained=sources(motion_module=str(tmp_path / "half.safetensors")))
    with pytest.raises(ConversionError, match=r"[1-9]\d* missing, 0 unexpected"):
        initial.starting_weights(started, task)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--start-from.backbone", "a"), {"backbone": pretrained.backbone("a")}),
        (("--start-from.motion-module=b",), {"motion_module": pretrained.motion_module("b")}),
        (("--start_from.motion_module", "b"), {"motion_module": pretrained.motion_module("b")}),
        (("--start-from.run", "c", "--start-from.run-weights", "live"), {"run": PretrainedRun("c", "raw")}),
        (("--start-from.run-weights=live", "--start-from.run=c"), {"run": PretrainedRun("c", "raw")}),
        (("--pretrained.vae.source", "d"), {"vae": pretrained.vae("d")}),
        (("--pretrained.backbone.takes", "x"), {"backbone": Pretrained("", "denoiser", ("unet", "transformer"), "x")}),
        (("--start-from.lora", "e"), {"lora": PretrainedLoRA("e")}),
    ],
)  # fmt: skip
def test_sources_are_flags_of_every_config(root, flags, expected):
    asked = load(f"{root}/configs/quickstart.py")
    changed = override(asked, list(flags), "test", "")
    assert changed == dataclasses.replace(asked, pretrained={**asked.pretrained, **expected})


def test_an_earlier_configuration_starts_from_the_same(root):
    """`start_from` of earlier versions, with every field set."""
    now = to_json(load(f"{root}/configs/quickstart.py"))
    fields = {"backbone": "a", "motion_module": "b", "vae": "", "text_encoder": "c", "content_encoder": "d"}
    before = {name: value for name, value in now.items() if name != "pretrained"}
    before["start_from"] = {"class": "StartFrom", **fields, "lora": "e", "run": "f", "run_weights": "live"}
    opened = from_json(before)
    expected = sources(**{name: place for name, place in fields.items() if place})
    expected |= {"run": PretrainedRun("f", "raw"), "lora": PretrainedLoRA("e"), "vae": pretrained.vae()}
    assert opened.pretrained == expected
    assert next(iter(opened.pretrained)) == "run"
    assert to_json(from_json(to_json(opened))) == to_json(opened)
