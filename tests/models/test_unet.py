from __future__ import annotations

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxmotion.foundation.types import Condition
from jaxmotion.models.animatediff import MotionModule
from jaxmotion.models.stable_diffusion import TINY, stable_diffusion_unet, transformer_layers
from jaxmotion.models.unet import UNetSizes
from jaxmotion.nn.transformer import GatedCrossAttention
from tests.support.quick_keys import quick_key

SIZES = dataclasses.replace(TINY, features=(8, 16), heads=2, groups=4)
ONE_STAGE = dataclasses.replace(SIZES, features=(8,), attention_stages=(True,))
B, T, H, W, C, D = 2, 3, 4, 6, 4, 5


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


ZT, TIME = draw(B, T, H, W, C), jnp.array([3, 981])
TOLD = Condition(tokens={"text": draw(B, 1, 7, D), "content": draw(B, 1, 9, D, seed=1)})


def random_params(network, *inputs):
    """Every parameter random, zero-initialised ones included."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def merged(fresh, pretrained):
    """The fresh tree with the pretrained leaves in it."""
    return {
        k: (merged(v, pretrained[k]) if isinstance(v, dict) else pretrained[k]) if k in pretrained else v
        for k, v in fresh.items()
    }


def applied(network, params, zt, condition=TOLD):
    return jax.jit(network.apply)({"params": params}, zt, TIME, condition)


def relative_error(y, exact) -> float:
    return float(jnp.linalg.norm((y.astype(jnp.float32) - exact).ravel()) / jnp.linalg.norm(exact.ravel()))


def extended(sizes: UNetSizes, frames: int = 8):
    """The U-Net with gated attention to `content` in every transformer and motion modules everywhere."""
    plain = transformer_layers(sizes)
    content = {"content": partial(GatedCrossAttention, sizes.heads, reads="content")}
    motion = {"motion": partial(MotionModule, sizes.heads, sizes.groups, frames=frames)}
    return stable_diffusion_unet(sizes, {"space": plain["space"], **content, **plain}, motion, motion)


def test_fresh_content_attention_and_motion_modules_change_nothing():
    base, video = stable_diffusion_unet(ONE_STAGE), extended(ONE_STAGE)
    pretrained = random_params(base, ZT, TIME, TOLD)
    fresh = jax.jit(video.init)(quick_key(1), ZT, TIME, TOLD)["params"]
    added = jax.tree.structure(fresh).num_leaves - jax.tree.structure(pretrained).num_leaves
    per_content, per_motion = 8, 6 + 7 + 7 + 6  # norm 2, q k v, out 2, gate; norm, proj_in, proj_out; 2 attentions; mlp
    transformers, motions = 4, 4  # a block down, the middle, two blocks up
    assert added == transformers * per_content + motions * per_motion
    np.testing.assert_array_equal(applied(video, merged(fresh, pretrained), ZT), applied(base, pretrained, ZT))


def test_frames_of_the_image_network_do_not_see_each_other_and_motion_modules_let_them():
    base, video = stable_diffusion_unet(SIZES), extended(SIZES)
    moved = ZT.at[:, 1].multiply(2.0)

    def frames_that_change(network):
        params = random_params(network, ZT, TIME, TOLD)
        apply = jax.jit(lambda zt: network.apply({"params": params}, zt, TIME, TOLD))
        return (apply(ZT) != apply(moved)).any((0, 2, 3, 4)).tolist()

    assert frames_that_change(base) == [False, True, False]
    assert frames_that_change(video) == [True, True, True]


def test_two_first_convolutions_are_one_over_all_channels():
    sizes = dataclasses.replace(SIZES, condition_channels=6)
    network = stable_diffusion_unet(sizes)
    first, second = draw(B, T, H, W, 4, seed=2), draw(B, T, H, W, 2, seed=3)
    told = TOLD + Condition(channels=(first, second))
    params = random_params(network, ZT, TIME, told)
    wide = jnp.concatenate([params["conv_in"]["kernel"], params["conv_condition"]["kernel"]], axis=2)
    one = stable_diffusion_unet(dataclasses.replace(SIZES, in_channels=10))
    joined = {k: v for k, v in params.items() if k != "conv_condition"}
    joined["conv_in"] = {"kernel": wide, "bias": params["conv_in"]["bias"]}
    np.testing.assert_allclose(
        applied(network, params, ZT, told),
        applied(one, joined, jnp.concatenate([ZT, first, second], -1)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_fresh_condition_channels_change_nothing():
    sizes = dataclasses.replace(SIZES, condition_channels=3)
    network = stable_diffusion_unet(sizes)
    told = TOLD + Condition(channels=(draw(B, T, H, W, 3),))
    params = jax.jit(network.init)(quick_key(0), ZT, TIME, told)["params"]
    base = {k: v for k, v in params.items() if k != "conv_condition"}
    np.testing.assert_array_equal(applied(network, params, ZT, told), applied(stable_diffusion_unet(SIZES), base, ZT))


def test_condition_vectors_are_added_to_the_time_embedding():
    network = stable_diffusion_unet(SIZES)
    params = random_params(network, ZT, TIME, TOLD)
    apply = jax.jit(lambda told: network.apply({"params": params}, ZT, TIME, told))
    vector = draw(B, 4 * SIZES.features[0])
    np.testing.assert_allclose(apply(TOLD + Condition(vectors=(vector, -vector))), apply(TOLD), atol=1e-4)
    assert jnp.abs(apply(TOLD + Condition(vectors=(vector,))) - apply(TOLD)).max() > 1e-2


@functools.cache
def gradient(remat: str):
    network = extended(dataclasses.replace(ONE_STAGE, remat=remat))
    params = random_params(network, ZT, TIME, TOLD)
    return jax.jit(jax.grad(lambda p: (network.apply({"params": p}, ZT, TIME, TOLD) ** 2).mean()))(params)


@pytest.mark.slow  # `tests/nn/test_chain.py` has the law, on small layers
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialised_gradients_are_the_same(remat):
    kept, again = gradient("none"), gradient(remat)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), kept, again)


@pytest.fixture(scope="module")
def precise():
    """A network's output and mean square by parameters and latents; both in float32 and in bfloat16."""
    network = extended(ONE_STAGE)
    params = random_params(network, ZT, TIME, TOLD)

    def loss(params, zt):
        y = network.apply({"params": params}, zt, TIME, TOLD)
        return (y.astype(jnp.float32) ** 2).mean(), y

    return loss, (params, ZT), jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, ZT))


def test_precision_follows_parameters_and_latents(precise):
    loss, wide, narrow = precise
    y, exact = (jax.jit(loss)(*inputs)[1] for inputs in (narrow, wide))
    assert relative_error(y, exact) < 0.05  # some 30 layers that round to 2^-9
    gradient, y = jax.eval_shape(jax.grad(loss, has_aux=True), *narrow)
    assert {leaf.dtype for leaf in (y, *jax.tree.leaves(gradient))} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_gradients_in_bfloat16_are_near_those_in_float32(precise):
    loss, wide, narrow = precise
    gradient, reference = (jax.jit(jax.grad(loss, has_aux=True))(*inputs)[0] for inputs in (narrow, wide))
    assert relative_error(ravel_pytree(gradient)[0], ravel_pytree(reference)[0]) < 0.1  # twice as many layers


@pytest.mark.parametrize(
    ("zt", "condition", "message"),
    [
        (ZT[0], TOLD, r"z_t is \[3, 4, 6, 4\]; this network needs \[B T h w 4\]"),
        (ZT[:, :, :3], TOLD, "Latents are 3 high; this network needs a multiple of 2, e.g. 2"),
        (ZT, TOLD + Condition(channels=(ZT,)), "brings 4 channels; this network was built for 0"),
        (ZT, Condition(), 'reads the tokens "text"'),
    ],
)
def test_wrong_inputs_are_refused(zt, condition, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(stable_diffusion_unet(SIZES).init, jax.random.key(0), zt, TIME, condition)


def test_wrong_condition_sizes_and_long_clips_are_refused():
    sizes = dataclasses.replace(SIZES, condition_channels=4)
    told = TOLD + Condition(channels=(ZT[:, :1],))
    with pytest.raises(ValueError, match=r"Condition channels are \[2, 1, 4, 6, 4\]; they need \[2, 3, 4, 6\]"):
        jax.eval_shape(stable_diffusion_unet(sizes).init, jax.random.key(0), ZT, TIME, told)
    with pytest.raises(ValueError, match="The clip has 3 frames; the motion modules take up to 2"):
        jax.eval_shape(extended(SIZES, frames=2).init, jax.random.key(0), ZT, TIME, TOLD)
    with pytest.raises(ValueError, match="2 stages have features, but attention_stages names 1"):
        dataclasses.replace(SIZES, attention_stages=(True,))
    with pytest.raises(ValueError, match="multiple of the 4 groups and the 2 heads; got 18"):
        dataclasses.replace(SIZES, features=(8, 18))
