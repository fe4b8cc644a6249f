"""CogVideoX's autoencoder, as diffusers names it (AutoencoderKLCogVideoX)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jaxmotion.weights.rules import Rule, Transform, conv, linear, norm, under

_CONV = Transform(lambda x: x.transpose(2, 3, 4, 1, 0), lambda x: (x.transpose(4, 3, 0, 1, 2),))
_POINTWISE = Transform(lambda x: x[:, :, 0, 0, 0].T, lambda x: (x.T[:, :, None, None, None],))


def _plain_norm(torch: str, path: str) -> tuple[Rule, ...]:
    return norm(torch, f"{path}/norm")


def _latent_norm(torch: str, path: str) -> tuple[Rule, ...]:
    return (
        *norm(f"{torch}.norm_layer", f"{path}/norm"),
        *linear(f"{torch}.conv_y.conv", f"{path}/scale", _POINTWISE),
        *linear(f"{torch}.conv_b.conv", f"{path}/shift", _POINTWISE),
    )


def _causal(torch: str, path: str) -> tuple[Rule, ...]:
    return linear(f"{torch}.conv", path, _CONV)


def _network(named_norm: Callable[[str, str], Iterable[Rule]], way: str, resampled: str) -> tuple[Rule, ...]:
    block = (
        *named_norm("norm1", "norm_in"),
        *_causal("conv1", "conv_in"),
        *named_norm("norm2", "norm_out"),
        *_causal("conv2", "conv_out"),
        *linear("conv_shortcut", "shortcut", _POINTWISE),
    )
    stage = f"{way}_blocks.{{stage}}."
    return (
        *_causal("conv_in", "conv_in"),
        *under("mid_block.resnets.{i}.", "middle_resnet_{i}/", block),
        *under(f"{stage}resnets.{{i}}.", f"{way}_{{stage}}_resnet_{{i}}/", block),
        *conv(f"{stage}{resampled}rs.0.conv", f"{way}_{{stage}}_{resampled}/conv"),
        *named_norm("norm_out", "norm_out"),
        *_causal("conv_out", "conv_out"),
    )


AUTOENCODER3D = (
    *under("encoder.", "encoder/", _network(_plain_norm, "down", "downsample")),
    *under("decoder.", "decoder/", _network(_latent_norm, "up", "upsample")),
)
