"""CogVideoX's transformer, as diffusers names it (CogVideoXTransformer3DModel)."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.types import Condition
from jaxmotion.models.cogvideox import CogVideoX, CogVideoXSizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.config_fields import UNSAID, ConfigField, ConfigTable, Value, attribute, fixed
from jaxmotion.weights.diffusers_configs import config_of
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import LINEAR, Rule, Transform, linear, norm, under
from jaxmotion.weights.tables.process import PROCESS

SIDE = 2
"""Height and width of a patch in all public weights."""

FLAT = Transform(  # a strided convolution [D C p p] there, a linear layer on flattened patches [C p p] here
    lambda x: x.reshape(x.shape[0], -1).T,
    lambda x: (x.T.reshape(x.shape[1], -1, SIDE, SIDE),),
)


def parts(count: int) -> tuple[Transform, Transform]:
    """Kernel and bias of a linear layer whose result falls into so many parts, one tensor there."""
    kernel = Transform(lambda x: x.T.reshape(x.shape[1], count, -1), lambda x: (x.reshape(x.shape[0], -1).T,))
    bias = Transform(lambda x: x.reshape(count, -1), lambda x: (x.reshape(-1),))
    return kernel, bias


def split(torch: str, path: str, count: int) -> tuple[Rule, ...]:
    """A linear layer whose result falls into parts."""
    kernel, bias = parts(count)
    return Rule(f"{torch}.weight", f"{path}/kernel", kernel), Rule(f"{torch}.bias", f"{path}/bias", bias)


_BLOCK = (
    *split("norm1.linear", "modulate_attention", 6),
    *norm("norm1.norm", "norm_attention"),
    *linear("attn1.to_q", "attention/query"),
    *linear("attn1.to_k", "attention/key"),
    *linear("attn1.to_v", "attention/value"),
    *linear("attn1.to_out.0", "attention/out"),
    *norm("attn1.norm_q", "attention/norm_query"),
    *norm("attn1.norm_k", "attention/norm_key"),
    *split("norm2.linear", "modulate_mlp", 6),
    *norm("norm2.norm", "norm_mlp"),
    *linear("ff.net.0.proj", "mlp/linear_in"),
    *linear("ff.net.2", "mlp/linear_out"),
)


def _rules(patches: Transform) -> tuple[Rule, ...]:
    return (
        *linear("patch_embed.proj", "patches", patches),
        *linear("patch_embed.text_proj", "text"),
        Rule("patch_embed.pos_embedding", "positions", Transform(lambda x: x[0], lambda x: (x[None],))),
        *linear("time_embedding.linear_1", "time/linear_in"),
        *linear("time_embedding.linear_2", "time/linear_out"),
        *linear("ofs_embedding.linear_1", "offset/linear_in"),
        *linear("ofs_embedding.linear_2", "offset/linear_out"),
        *under("transformer_blocks.{stack}.", "stack/layers/", _BLOCK),
        *norm("norm_final", "norm_blocks"),
        *norm("norm_out.norm", "norm_out"),
        *split("norm_out.linear", "modulate_out", 2),
        *linear("proj_out", "out"),
    )


COGVIDEOX = _rules(FLAT)
COGVIDEOX_1_5 = _rules(LINEAR)
"""Of version 1.5, whose patches span two frames and pass a linear layer there too."""


def infer_cogvideox(seen: Shapes) -> Network:
    """Returns the transformer. The frames of a patch do not follow from shapes, and change none; here it has one."""
    depth, features, _ = seen["stack/layers/attention/query/kernel"]
    head = seen["stack/layers/attention/norm_query/scale"][1]
    rows = seen.get("positions", (2,))[0]
    sizes = CogVideoXSizes(
        depth=depth,
        heads=features // head,
        head_features=head,
        in_channels=seen["patches/kernel"][0] // 4,
        out_channels=seen["out/kernel"][1] // 4,
        text_features=seen["text/kernel"][0],
        text_length=rows - 1,
        time_features=seen["time/linear_out/kernel"][1],
        positions="rotary_and_learned" if "positions" in seen else "rotary",
        grid=(1, 1, 1),
        offset="offset/linear_in/kernel" in seen,
        pad_to=1,
    )
    condition = Condition(tokens={"text": jnp.zeros((1, 1, rows - 1, sizes.text_features))})
    return CogVideoX(sizes), (jnp.zeros((1, 1, 2, 2, sizes.in_channels)), jnp.zeros((1,), jnp.int32), condition)


def _side(name: str, default: int, axis: int) -> ConfigField:
    """A side of the clips of training, in latents: where rotated places begin and end, or which places are known."""

    def ours(sizes: CogVideoXSizes) -> Value:
        fitted = sizes.positions in ("rotary", "rotary_and_learned")
        return sizes.grid[axis] * sizes.patch[1] if fitted else UNSAID

    return ConfigField(name, default, ours, "grid")


CONFIG = ConfigTable(
    CogVideoXSizes,
    (
        attribute("attention_head_dim", 64, "head_features"),
        ConfigField("patch_size", 2, lambda sizes: sizes.patch[1], "patch"),
        ConfigField(
            "patch_size_t", 1, lambda sizes: sizes.patch[0], "patch", read=lambda c: c.get("patch_size_t") or 1
        ),
        ConfigField("use_rotary_positional_embeddings", False, lambda sizes: sizes.positions != "sines", "positions"),
        ConfigField(
            "use_learned_positional_embeddings",
            False,
            lambda sizes: sizes.positions == "rotary_and_learned",
            "positions",
        ),
        _side("sample_height", 60, 1),
        _side("sample_width", 90, 2),
        attribute("max_text_seq_length", 226, "text_length", decides=False),
        *fixed(flip_sin_to_cos=True, freq_shift=0, norm_eps=1e-5, activation_fn="gelu-approximate"),
        *fixed(timestep_activation_fn="silu", spatial_interpolation_scale=1.875, temporal_interpolation_scale=1.0),
        *fixed(temporal_compression_ratio=4),
    ),
)

_EXPERT, _PATCHES = "transformer_blocks.0.norm1.linear.weight", "patch_embed.proj.weight"

FORMATS = (
    Format(
        "cogvideox",
        "a transformer of CogVideoX 2B, 5B or 5B-I2V as diffusers saves it (CogVideoXTransformer3DModel)",
        {"denoiser": COGVIDEOX},
        (_EXPERT,),
        axes={_PATCHES: 4},
        networks={"denoiser": infer_cogvideox},
        configs={"denoiser": (CONFIG, *PROCESS)},
    ),
    Format(
        "cogvideox-1.5",
        "a transformer of CogVideoX1.5 as diffusers saves it (CogVideoXTransformer3DModel)",
        {"denoiser": COGVIDEOX_1_5},
        (_EXPERT,),
        axes={_PATCHES: 2},
        networks={"denoiser": infer_cogvideox},
        configs={"denoiser": (CONFIG, *PROCESS)},
    ),
)


LORA_PARTS = (
    # The two underscores are of VideoX-Fun's scripts, which put a name between them that is empty.
    LoRAPart(
        "denoiser",
        "transformer",
        ("lora_unet_", "lora_transformer", "lycoris"),
        (COGVIDEOX, COGVIDEOX_1_5),
        "CogVideoX's transformer",
    ),
)


def cogvideox_config(sizes: CogVideoXSizes) -> Json:
    """Returns the config of `CogVideoXTransformer3DModel`."""
    frames, side = sizes.patch
    return config_of(
        "CogVideoXTransformer3DModel",
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_features,
        in_channels=sizes.in_channels,
        out_channels=sizes.out_channels,
        flip_sin_to_cos=True,
        freq_shift=0,
        time_embed_dim=sizes.time_features,
        ofs_embed_dim=sizes.time_features if sizes.offset else None,
        text_embed_dim=sizes.text_features,
        num_layers=sizes.depth,
        dropout=0.0,
        attention_bias=True,
        sample_width=sizes.grid[2] * side,
        sample_height=sizes.grid[1] * side,
        sample_frames=4 * (sizes.grid[0] * frames - frames) + 1,
        patch_size=side,
        patch_size_t=frames if frames > 1 else None,
        patch_bias=True,
        temporal_compression_ratio=4,
        max_text_seq_length=sizes.text_length,
        activation_fn="gelu-approximate",
        timestep_activation_fn="silu",
        norm_elementwise_affine=True,
        norm_eps=1e-5,
        spatial_interpolation_scale=1.875,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=sizes.positions != "sines",
        use_learned_positional_embeddings=sizes.positions == "rotary_and_learned",
    )
