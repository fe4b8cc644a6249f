"""Checkpoints as training saves them: a text before all names, a U-Net with its motion modules, T5 with both halves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmotion.foundation.types import Condition
from jaxmotion.models.unet import UNetSizes
from jaxmotion.systems import pretrained
from jaxmotion.systems.livephoto.livephoto import livephoto_unet
from jaxmotion.weights import formats, native_files
from jaxmotion.weights.rules import ConversionError
from jaxmotion.weights.tensor_files import open_tensors
from tests.support.public import (
    PUBLIC,
    TWO_STAGES,
    TWO_STAGES_OF_MOTION,
    adapter,
    as_animatediff,
    randomised,
    t5,
    two_stage_unet_motion,
    unet,
)

torch = pytest.importorskip("torch")

import transformers


@pytest.mark.parametrize(
    ("wrapper", "channels"), [("module.", 10), ("_orig_mod.", 4), ("module._orig_mod.", 4), ("unet.", 4)]
)
def test_a_text_before_all_names_is_no_matter(wrapper, channels, tmp_path):
    state = unet(**TWO_STAGES, in_channels=channels).state_dict()
    torch.save({"state_dict": {wrapper + name: tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pt")
    torch.save(state, tmp_path / "plain.pt")
    wrapped, plain = open_tensors(tmp_path / "wrapped.pt"), open_tensors(tmp_path / "plain.pt")
    kind = formats.detect(wrapped)
    ours, expected = formats.read(wrapped, kind), formats.read(plain, formats.detect(plain))
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[path], expected[path]) for path in ours)
    native_files.import_checkpoint(wrapped, kind, tmp_path / "ours")
    native_files.restore(tmp_path / "ours", tmp_path / "back")
    back = open_tensors(tmp_path / "back")
    assert set(back) == set(wrapped)
    assert all(np.array_equal(back[name], wrapped[name]) for name in wrapped)
    assert formats.find_format("diffusers-unet", wrapped).name == kind.name


def shapes(*, motion_in_middle: bool = False):
    """The parameters of a LivePhoto's denoiser with content tokens and six condition channels."""
    sizes = UNetSizes(4, 4, 6, features=(8, 16), blocks_per_stage=1, attention_stages=(True, False), heads=2, groups=4)
    network = livephoto_unet(sizes, ("content",), 4, motion_in_middle=motion_in_middle)
    condition = Condition(
        channels=(jnp.zeros((1, 1, 8, 8, 6)),),
        tokens={"text": jnp.zeros((1, 1, 1, 32)), "content": jnp.zeros((1, 1, 1, 32))},
    )
    inputs = (jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros((1,), jnp.int32), condition)
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {f"denoiser/{path}": shape for path, shape in flatten_dict(params, sep="/").items()}


def test_a_training_checkpoint_of_animatediff_starts_both_fields(tmp_path):
    own = as_animatediff("module.", two_stage_unet_motion)(tmp_path)
    two_stage_unet_motion().save_pretrained(tmp_path / "diffusers")
    wanted, checkpoint = shapes(), open_tensors(tmp_path / "diffusers")
    expected = formats.read(checkpoint, formats.detect(checkpoint), wanted)
    backbone = pretrained.backbone(str(own)).load(None, wanted, {})  # pyright: ignore[reportArgumentType]
    motion = pretrained.motion_module(str(own)).load(None, wanted, backbone)  # pyright: ignore[reportArgumentType]
    assert backbone.keys() == expected.keys()
    assert motion.keys() == {path for path in expected if "/motion/" in path}
    for found in (backbone, motion):
        for path, array in found.items():
            np.testing.assert_array_equal(array, np.asarray(expected[path], np.float16), err_msg=path)


def test_animatediff_v2_starts_a_system_with_a_module_in_the_middle(tmp_path):
    model = adapter(**TWO_STAGES_OF_MOTION, use_motion_mid_block=True)
    model.save_pretrained(tmp_path)
    source = pretrained.motion_module(str(tmp_path))
    found = source.load(None, shapes(motion_in_middle=True), {})  # pyright: ignore[reportArgumentType]
    middle = "mid_block.motion_modules.0.proj_in.weight"
    np.testing.assert_array_equal(found["denoiser/middle/motion/proj_in/kernel"], model.state_dict()[middle].numpy().T)
    assert len(found) == len(list(model.named_parameters()))
    with pytest.raises(ConversionError, match=r"as AnimateDiff v2 has: set motion_in_middle of the system"):
        source.load(None, shapes(), {})  # pyright: ignore[reportArgumentType]


def test_a_file_without_the_part_says_so(tmp_path):
    wanted = {"codec/moments/kernel": np.zeros(2)}
    source = pretrained.vae(str(PUBLIC["diffusers-motion"](tmp_path)))
    with pytest.raises(ValueError, match=r"is motion modules .*, and the codec is needed\. These would do:"):
        source.load(None, wanted, {})  # pyright: ignore[reportArgumentType]
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}
    torch.save(tensors, tmp_path / "pruned.ckpt")
    source = pretrained.vae(str(tmp_path / "pruned.ckpt"))
    with pytest.raises(ValueError, match=r"is Stable Diffusion 1\.5 in one file.* without the codec\. Give that"):
        source.load(None, wanted, {})  # pyright: ignore[reportArgumentType]


def test_a_whole_t5_starts_the_text_encoder(tmp_path):
    whole = t5(transformers.T5ForConditionalGeneration)
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    checkpoint = open_tensors(tmp_path)
    kind = formats.detect(checkpoint)
    found = formats.read(checkpoint, kind)
    encoder = randomised(t5())
    encoder.load_state_dict(whole.state_dict(), strict=False)
    encoder.save_pretrained(tmp_path / "encoder")
    alone = open_tensors(tmp_path / "encoder")
    expected = formats.read(alone, formats.detect(alone))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in found)
    native_files.import_checkpoint(checkpoint, kind, tmp_path / "ours")
    native_files.restore(tmp_path / "ours", tmp_path / "back")
    assert set(open_tensors(tmp_path / "back")) == set(checkpoint)  # its decoder goes out as it came
