"""Exported systems make the clips that ours make, in a process with plain diffusers; what cannot be exported says so.

Networks and samplers were compared one by one elsewhere (tests/parity); here they are files.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax.traverse_util import flatten_dict

from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.diffusion.sampling import Noise
from jaxmotion.foundation.types import Condition
from jaxmotion.models import clip
from jaxmotion.runs import experiment
from jaxmotion.systems.livephoto import export
from jaxmotion.systems.livephoto import export_check as livephoto_report
from jaxmotion.systems.livephoto import export_parts as livephoto
from jaxmotion.systems.livephoto.export import export_diffusers, export_motion_adapter
from jaxmotion.systems.livephoto.livephoto import LivePhoto
from jaxmotion.systems.livephoto.prior import PriorInversion
from jaxmotion.systems.reference import ReferenceLatent
from jaxmotion.weights import parity as report
from jaxmotion.weights.rules import ConversionError, paths_with_rules
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.exports import (
    DIFFUSED,
    FOUR_CHANNELS,
    PLAIN,
    TOKENS,
    Case,
    frames_elsewhere,
    opened,
    random_parameters,
    write_photo,
)

FRAMES = 1e-3
"""How far frames in [0, 1] may be from ours."""

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture(scope="module")
def quickstart(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The quickstart's system, with guidance."""
    loaded = experiment.load(str(root / "configs" / "quickstart.py"))
    system = loaded.system
    assert isinstance(system, LivePhoto)
    params, folder = random_parameters(system), tmp_path_factory.mktemp("out") / "quickstart"
    sampling = dataclasses.replace(loaded.sampling, guidance=2.5, initial_noise=PriorInversion(0.3, 0.1))
    meta = experiment.to_json(loaded)
    export_diffusers(system, params, sampling, TOKENS, folder, meta=meta, verify=False)
    return Case(system, sampling, params, folder, {"prompt": "the Camera pans left, fast!", "motion_level": 9})


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A system without maps, content and re-weighting, that starts from plain noise."""
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN)
    params, folder = random_parameters(system), tmp_path_factory.mktemp("out") / "ablated"
    sampling = dataclasses.replace(DIFFUSED, guidance=1.0, initial_noise=Noise())
    export_diffusers(system, params, sampling, TOKENS, folder, meta={}, verify=False)
    return Case(system, sampling, params, folder, {"prompt": "a kite"})


@pytest.fixture(scope="module")
def four_channels(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A small system with the autoencoder of Stable Diffusion, verified when it was exported."""
    params, folder = random_parameters(FOUR_CHANNELS), tmp_path_factory.mktemp("out") / "four_channels"
    export_diffusers(FOUR_CHANNELS, params, DIFFUSED, TOKENS, folder, meta={})
    return Case(FOUR_CHANNELS, DIFFUSED, params, folder, {"prompt": "a dog runs"})


@pytest.mark.slow
def test_frames_agree_in_a_clean_process(quickstart: Case, ablated: Case, photo: Path, tmp_path: Path) -> None:
    cases = {"quickstart": quickstart, "ablated": ablated}
    for name, theirs in frames_elsewhere(cases, photo, tmp_path).items():
        ours = cases[name].ours(photo)
        assert theirs.shape == ours.shape
        assert ours.std() > 0.05, "a grey clip proves nothing"
        assert np.abs(theirs - ours).max() <= FRAMES, name


def test_every_part_is_verified_and_the_report_says_by_how_much(four_channels: Case) -> None:
    found = json.loads((four_channels.folder / export.REPORT).read_text())
    assert list(found["parts"]) == livephoto_report.parts_of(FOUR_CHANNELS)
    for name, part in found["parts"].items():
        assert part["status"] == "verified", (name, part)
        assert 0 < part["largest_relative_difference"] < 1e-5, name
    assert found["versions"]["diffusers"] == diffusers.__version__
    card = (four_channels.folder / export.CARD).read_text()
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: image-to-video\n")
    assert "9 of 9 verified" in card
    assert "| 10 | 0 to 0.1000 |" in card


def test_parts_that_are_ablated_are_not_in_the_folder(quickstart: Case, ablated: Case, four_channels: Case) -> None:
    parts = {"unet", "vae", "tokenizer", "text_encoder", "scheduler"}
    added = {"text_reweighting", "content_encoder", "content_layers"}

    def folders(case: Case) -> set[str]:
        return {path.name for path in case.folder.iterdir() if path.is_dir()}

    assert folders(ablated) == parts
    assert folders(quickstart) == folders(four_channels) == parts | added
    index = json.loads((ablated.folder / "model_index.json").read_text())
    assert index["channels"] == "reference"
    assert not any(isinstance(index[key], list) for key in ("clip", "channels", "level_scale", "defaults"))  # hub


def test_stock_classes_are_configured_to_the_last_argument(quickstart: Case, four_channels: Case) -> None:
    """What is left to a default today may be another tomorrow."""
    for case, names in ((quickstart, ("unet",)), (four_channels, ("unet", "vae"))):
        for name in names:
            config = json.loads((case.folder / name / "config.json").read_text())
            kind = getattr(diffusers, config["_class_name"])
            made = {key: value for key, value in kind.from_config(config).config.items() if key[0] != "_"}
            written = {key: value for key, value in config.items() if key[0] != "_"}
            assert json.loads(json.dumps(made)) == written


def test_the_u_net_is_stock(quickstart: Case, four_channels: Case) -> None:
    """Its files hold the names of the class, positions included, before and after content layers were attached."""
    for case, channels in ((quickstart, 98), (four_channels, 10)):
        unet, problems = diffusers.UNetMotionModel.from_pretrained(case.folder / "unet", output_loading_info=True)
        assert not any(problems.values()), problems
        assert unet.conv_in.weight.shape[1] == channels
        fresh = diffusers.UNetMotionModel.from_config(unet.config).state_dict()
        kept = {name: value for name, value in unet.state_dict().items() if name.endswith("pos_embed.pe")}
        assert kept
        for name, value in kept.items():  # float32 angles there, float64 here, up to 31
            torch.testing.assert_close(value, fresh[name], atol=5e-6, rtol=0)
        pipe = opened(case)
        pipe.content_layers.attach(pipe.unet)
        assert pipe.unet.state_dict().keys() == fresh.keys()


@pytest.fixture(scope="module")
def published(root: Path) -> tuple[experiment.Experiment, LivePhoto, dict[str, Any]]:
    """The experiment, the system and the shapes of its parameters at the published size."""
    loaded = experiment.load(str(root / "configs" / "livephoto.py"))
    assert isinstance(loaded.system, LivePhoto)
    return loaded, loaded.system, shapes_of(loaded.system)


def shapes_of(system: LivePhoto) -> dict[str, Any]:
    """Shapes of all parameters by path."""
    return flatten_dict(jax.eval_shape(system.build().init, jax.random.key(0)), sep="/")


def test_each_parameter_goes_into_one_component(root: Path, published) -> None:
    systems = {"full": published[1:]}
    for name in ("tiny_reference_latent", "tiny_without_intensity", "tiny_without_reweighting"):
        system = experiment.load(f"{root / 'configs' / 'livephoto.py'}:{name}").system
        assert isinstance(system, LivePhoto)
        systems[name] = system, shapes_of(system)
    for name, (system, flat) in systems.items():
        taken = [path for table in livephoto.tables(system) for path in paths_with_rules(table, flat)]
        assert sorted(taken) == sorted(flat), name


@pytest.mark.slow
def test_the_published_size_is_the_public_classes(published) -> None:
    """Names and shapes of all tensors, without any memory."""
    loaded, system, flat = published
    made = livephoto.pipeline_of(system, flat, loaded.sampling, HashTokenizer(49408, 77)).components
    for name in ("unet", "vae"):
        config = {key: value for key, value in made[name].config.items() if key[0] != "_"}
        with torch.device("meta"):
            theirs = getattr(diffusers, made[name].class_name)(**config).state_dict()
        assert {n: tuple(t.shape) for n, t in theirs.items()} == {n: t.shape for n, t in made[name].tensors.items()}
    for name in ("text_encoder", "content_encoder"):
        config = made[name].config
        plain = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            theirs = getattr(transformers, made[name].class_name)(plain)
        shapes = sorted(tuple(tensor.shape) for tensor in theirs.state_dict().values())  # of other names in memory
        assert shapes == sorted(tensor.shape for tensor in made[name].tensors.values())
    unet, plain = made["unet"].config, diffusers.UNet2DConditionModel().config
    assert unet["in_channels"] == 10
    for name in ("block_out_channels", "layers_per_block", "norm_eps", "norm_num_groups", "downsample_padding"):
        assert json.loads(json.dumps(plain[name])) == unet[name]


def test_an_adapter_on_the_base_is_the_exported_u_net(four_channels: Case, tmp_path: Path) -> None:
    export_motion_adapter(FOUR_CHANNELS, four_channels.params, tmp_path / "adapter", meta={})
    whole = diffusers.UNetMotionModel.from_pretrained(four_channels.folder / "unet").eval()
    adapter = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter")
    sizes = FOUR_CHANNELS.unet
    base = diffusers.UNet2DConditionModel(
        block_out_channels=sizes.features,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=sizes.heads,
        cross_attention_dim=clip.TINY.features,
        norm_num_groups=sizes.groups,
    )
    state = {name: value for name, value in whole.state_dict().items() if name in base.state_dict()}
    base.load_state_dict({**state, "conv_in.weight": state["conv_in.weight"][:, :4]})
    joined = diffusers.UNetMotionModel.from_unet2d(base, adapter)
    expected = whole.state_dict()
    assert joined.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in joined.state_dict().items())
    x, text = torch.randn(1, 10, 4, 8, 12), torch.randn(4, 16, clip.TINY.features)
    with torch.no_grad():
        assert torch.equal(joined.eval()(x, 7, text).sample, whole(x, 7, text).sample)
    pipe = diffusers.DiffusionPipeline.from_pretrained(four_channels.folder, unet=joined, trust_remote_code=True)
    assert pipe.unet is joined


def test_modules_that_norm_each_frame_do_so_in_pytorch(tmp_path: Path) -> None:
    """The folder's pipeline makes them; an adapter, which has no such pipeline, is refused by name."""
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN, motion_norm="frame")
    params = random_parameters(system)
    export_diffusers(system, params, DIFFUSED, TOKENS, tmp_path / "out", meta={}, verify=False)
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert pipe.config.motion_norm == "frame"
    rng = np.random.default_rng(0)
    z, text = rng.normal(size=(1, 4, 8, 12, 4)), rng.normal(size=(1, 1, 16, clip.TINY.features))
    channels, model = rng.normal(size=(1, 4, 8, 12, 4)), system.build()
    z = z * np.arange(1, 5)[:, None, None, None]  # frames of different spread, which a norm of each takes out
    told = Condition((channels.astype(np.float32),), {"text": text.astype(np.float32)})
    ours = jax.jit(model.predict)(params, z.astype(np.float32), np.array([7]), told)
    theirs = pipe.unet(
        torch.tensor(rearrange(np.concatenate([z, channels], -1), "B T h w C -> B C T h w"), dtype=torch.float32),
        7,
        torch.tensor(np.repeat(text[:, 0], 4, 0), dtype=torch.float32),
    ).sample.detach()
    found = rearrange(theirs.numpy(), "B C T h w -> B T h w C")
    assert np.abs(found - ours).max() <= 1e-4 * np.abs(ours).max()
    stock = diffusers.UNetMotionModel.from_pretrained(tmp_path / "out" / "unet")
    assert stock.state_dict().keys() == pipe.unet.state_dict().keys()
    with pytest.raises(ValueError, match=r"norm each frame alone \(system.motion_norm frame\)"):
        export_motion_adapter(system, params, tmp_path / "adapter", meta={})


def test_files_hold_the_parameters_in_their_own_precision(tmp_path: Path) -> None:
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_parameters(system))
    export_diffusers(system, params, DIFFUSED, TOKENS, tmp_path / "out", meta={}, verify=False)
    unet = open_tensors(tmp_path / "out" / "unet")
    kinds = {str(tensor.dtype) for name, tensor in unet.items() if not name.endswith("pe")}
    assert kinds == {"bfloat16"}
    conv = np.asarray(unet["conv_in.weight"])
    ours = [np.asarray(params["denoiser"][name]["kernel"]) for name in ("conv_in", "conv_condition")]
    np.testing.assert_array_equal(conv, np.concatenate(ours, axis=2).transpose(3, 2, 0, 1))


def test_a_part_that_differs_fails_after_the_report_is_written(monkeypatch, tmp_path: Path) -> None:
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN)
    parts = {"vae_decode": report.Difference(0.1, 0.2), "unet": report.Difference(1e-6, 1e-6)}
    monkeypatch.setattr(livephoto_report, "verify", lambda *_: report.Report(parts, {}))
    with pytest.raises(
        report.VerificationError, match=r"vae_decode by 2\.0e-01 \(relative; at most 1e-04\)\. See .*report\.json"
    ):
        export_diffusers(system, random_parameters(system), DIFFUSED, TOKENS, tmp_path / "out", meta={})
    found = json.loads((tmp_path / "out" / export.REPORT).read_text())["parts"]
    assert {name: part["status"] for name, part in found.items()} == {"vae_decode": "too large", "unet": "verified"}


def test_a_result_that_is_no_number_is_too_large() -> None:
    assert report.Difference(float("nan"), float("nan")).status == "too large"


def test_without_pytorch_nothing_is_verified_and_the_report_says_why(monkeypatch, tmp_path: Path) -> None:
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN)
    monkeypatch.setitem(sys.modules, "torch", None)
    export_diffusers(system, random_parameters(system), DIFFUSED, TOKENS, tmp_path / "out", meta={})
    found = json.loads((tmp_path / "out" / export.REPORT).read_text())["parts"]
    assert found["unet"]["status"] == "not verified"
    assert "torch" in found["unet"]["reason"]


def test_an_export_that_fails_leaves_nothing(monkeypatch, tmp_path: Path) -> None:
    system = dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN)

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(livephoto_report, "verify", fail)
    with pytest.raises(OSError, match="disk is full"):
        export_diffusers(system, random_parameters(system), DIFFUSED, TOKENS, tmp_path / "out", meta={})
    assert not list(tmp_path.iterdir())


class TestRefusals:
    """What cannot be exported says what came and what would do."""

    def export(self, tmp_path: Path, system: LivePhoto, **changes: Any) -> None:
        arguments = {"params": random_parameters(system), "sampling": DIFFUSED, "tokenizer": TOKENS, **changes}
        export_diffusers(system, destination=tmp_path / "out", meta={}, verify=False, **arguments)

    def test_a_destination_with_files(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").touch()
        with pytest.raises(FileExistsError, match="is there already"):
            self.export(tmp_path, dataclasses.replace(FOUR_CHANNELS, conditioners=PLAIN))
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

    def test_feedforward_layers_of_another_width(self, tmp_path: Path) -> None:
        narrow = dataclasses.replace(FOUR_CHANNELS, unet=dataclasses.replace(FOUR_CHANNELS.unet, expansion=2))
        with pytest.raises(ValueError, match=r"2 times as wide .* always 4 times"):
            self.export(tmp_path, narrow)

    def test_a_tokenizer_of_another_encoder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"reads 16 tokens of a vocabulary of 1024; .* 77 of 49408"):
            self.export(tmp_path, FOUR_CHANNELS, tokenizer=HashTokenizer(49408, 77))

    def test_parameters_of_another_system(self, tmp_path: Path) -> None:
        params = random_parameters(FOUR_CHANNELS)
        del params["reweighting"]["norm"]
        params["denoiser"]["conv_in"]["bias"] = np.zeros(7, np.float32)
        with pytest.raises(ConversionError) as caught:
            self.export(tmp_path, FOUR_CHANNELS, params=params)
        assert caught.value.missing == ("reweighting/norm/bias", "reweighting/norm/scale")
        assert caught.value.wrong_shape == ("denoiser/conv_in/bias: [7] came, [32] is needed",)

    def test_a_conditioner_that_the_pipeline_does_not_know(self, tmp_path: Path) -> None:
        class Weather(ReferenceLatent):
            pass

        system = dataclasses.replace(FOUR_CHANNELS, conditioners={**PLAIN, "weather": Weather()})
        with pytest.raises(ValueError, match="no place for the conditioner Weather"):
            self.export(tmp_path, system)

    def test_an_adapter_of_latents_with_other_channels(self, root: Path, quickstart: Case, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="latents of 4 channels; these have 48"):
            export_motion_adapter(quickstart.system, quickstart.params, tmp_path / "adapter", meta={})


def test_a_motion_module_in_the_middle_goes_out_too() -> None:
    """Names and shapes are those of the public classes with their module in the middle, as AnimateDiff v2 has it."""
    system = dataclasses.replace(FOUR_CHANNELS, motion_in_middle=True)
    shapes = shapes_of(system)
    config = {key: value for key, value in livephoto.unet_config(system).items() if key[0] != "_"}
    with torch.device("meta"):
        unet = diffusers.UNetMotionModel(**config).state_dict()
    assert "mid_block.motion_modules.0.proj_in.weight" in unet
    tensors = livephoto.unet_tensors(system, shapes)
    assert {name: tuple(t.shape) for name, t in unet.items()} == {name: t.shape for name, t in tensors.items()}
    adapter = livephoto.adapter_of(system, shapes)
    config = {key: value for key, value in adapter.config.items() if key[0] != "_"}
    with torch.device("meta"):
        theirs = diffusers.MotionAdapter(**config).state_dict()
    assert {name: tuple(t.shape) for name, t in theirs.items()} == {n: t.shape for n, t in adapter.tensors.items()}
