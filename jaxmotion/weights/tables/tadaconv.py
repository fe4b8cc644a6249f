"""TAda2D and TAdaConvNeXtV2, as the code of their authors names them in `model_state` of an archive."""

from __future__ import annotations

import numpy as np

from jaxmotion.weights.checkpoint_format import Format
from jaxmotion.weights.rules import Rule, Transform, linear, norm, under

_POINT = Transform(lambda x: x[:, :, 0, 0, 0].T, lambda x: (x.T[:, :, None, None, None],))
"""[O I 1 1 1] and [I O]."""
_FRAMES = Transform(
    lambda x: x[:, :, :, 0, 0].transpose(2, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(3, -1, x.shape[1]).transpose(2, 1, 0)[..., None, None],),
)
"""[O I 3 1 1] and [3 I, O]: the three frames' inputs one after the other."""
_IMAGE = Transform(lambda x: x[:, :, 0].transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1)[:, :, None],))
"""[O I 1 k k] and [k k I O]."""
_CALIBRATED = Transform(lambda x: x[0, 0].transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1)[None, None],))
"""[1 1 O I k k] and [k k I O]; of a depthwise kernel I is 1."""
_LONE_BIAS = Transform(lambda x: x[0, 0], lambda x: (x[None, None],))


def _squares(frames: int, side: int) -> Transform:
    """[O I t k k] and [t k k I, O]."""

    def back(x: np.ndarray) -> tuple[np.ndarray]:
        return (x.reshape(frames, side, side, -1, x.shape[1]).transpose(4, 3, 0, 1, 2),)

    return Transform(lambda x: x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0]), back)


def _batch_norm(torch: str, path: str) -> tuple[Rule, ...]:
    moments = (Rule(f"{torch}.running_mean", f"{path}/mean"), Rule(f"{torch}.running_var", f"{path}/variance"))
    return (*norm(torch, path), *moments)


_ROUTE = (
    *linear("g", "g", _POINT),
    *linear("a", "a", _FRAMES),
    *_batch_norm("bn", "bn"),
    Rule("b.weight", "b/kernel", _FRAMES),
)
_BRANCH = (
    Rule("a.weight", "a/kernel", _POINT),
    *_batch_norm("a_bn", "a_bn"),
    *under("b_rf.", "b_rf/", _ROUTE),
    Rule("b.weight", "b/conv/kernel", _CALIBRATED),
    *_batch_norm("b_bn", "b_bn"),
    *_batch_norm("b_avgpool_bn", "b_avgpool_bn"),
    Rule("c.weight", "c/kernel", _POINT),
    *_batch_norm("c_bn", "c_bn"),
)
_BLOCK = (
    *under("conv_branch.", "", _BRANCH),
    Rule("short_cut.weight", "short_cut/kernel", _POINT),
    *_batch_norm("short_cut_bn", "short_cut_bn"),
)
STAGES = 4
"""conv2 to conv5 there, 0 to 3 here; blocks count from 1 there, from 0 here, so each has rules of its own."""
_MOST_BLOCKS = 36


def _stage_rules() -> tuple[Rule, ...]:
    return tuple(
        rule
        for stage in range(STAGES)
        for block in range(_MOST_BLOCKS)
        for rule in under(f"backbone.conv{stage + 2}.res_{block + 1}.", f"stage_{stage}_block_{block}/", _BLOCK)
    )


TADA2D = (
    Rule("backbone.conv1.a.weight", "stem/kernel", _IMAGE),
    *_batch_norm("backbone.conv1.a_bn", "stem_bn"),
    *_stage_rules(),
)
HEAD = ("head.*", "backbone.norm.*", "*num_batches_tracked")
"""No parameters of the backbone: the published classifier and what counts its training."""

_V2_ROUTE = (
    *linear("a", "a", _FRAMES),
    *norm("norm", "norm"),
    *norm("norm_transformer", "norm_transformer"),
    *linear("qkv_proj", "qkv_proj", _POINT),
    *linear("attn_out", "attn_out", _POINT),
    Rule("b.weight", "b/kernel", _FRAMES),
    Rule("b_bias.weight", "b_bias/kernel", _FRAMES),
)
_V2_BLOCK = (
    Rule("dwconv.weight", "dwconv/kernel", _CALIBRATED),
    Rule("dwconv.bias", "dwconv/bias", _LONE_BIAS),
    *under("dwconv_rf.", "dwconv_rf/", _V2_ROUTE),
    *norm("norm", "norm"),
    *norm("norm_avgpool", "norm_avgpool"),
    *linear("pwconv1", "pwconv1"),
    *linear("pwconv2", "pwconv2"),
    Rule("gamma", "gamma"),
)
TADACONVNEXTV2 = (
    *linear("backbone.downsample_layers.0.0", "stem", _squares(3, 4)),
    *norm("backbone.downsample_layers.0.1", "stem_norm"),
    *(rule for n in range(1, STAGES) for rule in norm(f"backbone.downsample_layers.{n}.0", f"down_{n}_norm")),
    *(
        rule
        for n in range(1, STAGES)
        for rule in linear(f"backbone.downsample_layers.{n}.1", f"down_{n}", _squares(1, 2))
    ),
    *under("backbone.stages.{n}.{m}.", "stage_{n}_block_{m}/", _V2_BLOCK),
)


FORMATS = (
    Format(
        "tada2d",
        "a TAda2D of its authors (model_state)",
        {"backbone": TADA2D},
        ("backbone.conv2.res_1.conv_branch.b_rf.g.weight",),
        ignored=HEAD,
    ),
    Format(
        "tadaconvnextv2",
        "a TAdaConvNeXtV2 of its authors (model_state)",
        {"backbone": TADACONVNEXTV2},
        ("backbone.stages.0.0.dwconv_rf.qkv_proj.weight",),
        ignored=HEAD,
    ),
)
