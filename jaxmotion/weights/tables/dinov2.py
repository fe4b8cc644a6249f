"""DINOv2, as transformers names it: in public files, and otherwise in the memory of transformers 5."""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.models.dinov2 import MEAN, STD, DINOv2, DINOv2Sizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.config_fields import ConfigTable, attribute, fixed
from jaxmotion.weights.rules import JOINED_BIAS, JOINED_KERNEL, Rule, Transform, linear, norm, pair, under
from jaxmotion.weights.tables.patches import PATCHES

_ROW = Transform(lambda x: x.reshape(-1), lambda x: (x[None],))
_CLS = Transform(lambda x: x.reshape(-1), lambda x: (x[None, None],))
_TABLE = Transform(lambda x: x[0], lambda x: (x[None],))

_ATTENTION = (
    *linear("attention.attention.query", "attention/query"),
    *linear("attention.attention.key", "attention/key"),
    *linear("attention.attention.value", "attention/value"),
    *linear("attention.output.dense", "attention/out"),
)
_ATTENTION_IN_MEMORY = (
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
)
_MLP = (*linear("mlp.fc1", "mlp/linear_in"), *linear("mlp.fc2", "mlp/linear_out"))
_GATED = (*pair("mlp.weights_in", "mlp/linear_in"), *linear("mlp.weights_out", "mlp/linear_out"))
_GATED_IN_MEMORY = (
    Rule(("mlp.gate_proj.weight", "mlp.up_proj.weight"), "mlp/linear_in/kernel", JOINED_KERNEL),
    Rule(("mlp.gate_proj.bias", "mlp.up_proj.bias"), "mlp/linear_in/bias", JOINED_BIAS),
    *linear("mlp.down_proj", "mlp/linear_out"),
)


def _rules(attention: Iterable[Rule], mlp: Iterable[Rule]) -> tuple[Rule, ...]:
    layer = (
        *norm("norm1", "norm_attention"),
        *attention,
        Rule("layer_scale1.lambda1", "scale_attention"),
        *norm("norm2", "norm_mlp"),
        *mlp,
        Rule("layer_scale2.lambda1", "scale_mlp"),
    )
    return (
        Rule("embeddings.cls_token", "cls", _CLS),
        Rule("embeddings.mask_token", "mask_token", _ROW),
        Rule("embeddings.register_tokens", "registers", _TABLE),
        Rule("embeddings.position_embeddings", "positions", _TABLE),
        *linear("embeddings.patch_embeddings.projection", "patches", PATCHES),
        *under("encoder.layer.{stack}.", "stack/layers/", layer),
        *norm("layernorm", "norm_out"),
    )


DINOV2 = _rules(_ATTENTION, _MLP)
DINOV2_GATED = _rules(_ATTENTION, _GATED)
"""Of the giant, whose feedforward layers are gated."""
DINOV2_IN_MEMORY = _rules(_ATTENTION_IN_MEMORY, _MLP)
DINOV2_GATED_IN_MEMORY = _rules(_ATTENTION_IN_MEMORY, _GATED_IN_MEMORY)
"""Of a `state_dict`; `save_pretrained` of transformers writes the names of public files."""


def infer_dinov2(seen: Shapes) -> Network:
    """Returns the image encoder."""
    inputs, features = seen["patches/kernel"]
    first = seen["stack/layers/mlp/linear_in/kernel"]
    patch, grid = math.isqrt(inputs // 3), math.isqrt(seen["positions"][0] - 1)
    sizes = DINOv2Sizes(
        image_size=patch * grid,
        patch=patch,
        grid=grid,
        features=features,
        depth=first[0],
        heads=1,
        hidden=first[-1],
        gated=len(first) == 4,
        registers=seen.get("registers", (0,))[0],
    )
    return DINOv2(sizes), (jnp.zeros((1, patch, patch, 3)),)


_FIRST_LAYER = "encoder.layer.0."
CONFIGS = {
    "content_encoder": (
        ConfigTable(
            DINOv2Sizes,
            (attribute("num_attention_heads", 12, "heads"), *fixed(hidden_act="gelu", layer_norm_eps=1e-6)),
        ),
        ConfigTable(DINOv2Sizes, fixed(image_mean=list(MEAN), image_std=list(STD)), "preprocessor_config.json"),
    )
}

FORMATS = (
    Format(
        "dinov2",
        "an image encoder of DINOv2 (Dinov2Model)",
        {"content_encoder": DINOV2},
        ("embeddings.cls_token", f"{_FIRST_LAYER}attention.attention.query.weight", f"{_FIRST_LAYER}mlp.fc1.weight"),
        networks={"content_encoder": infer_dinov2},
        configs=CONFIGS,
    ),
    Format(
        "dinov2-gated",
        "the giant image encoder of DINOv2 (Dinov2Model)",
        {"content_encoder": DINOV2_GATED},
        (
            "embeddings.cls_token",
            f"{_FIRST_LAYER}attention.attention.query.weight",
            f"{_FIRST_LAYER}mlp.weights_in.weight",
        ),
        networks={"content_encoder": infer_dinov2},
        configs=CONFIGS,
    ),
    Format(
        "dinov2-in-memory",
        "an image encoder of DINOv2 in the names that transformers 5 has in memory",
        {"content_encoder": DINOV2_IN_MEMORY},
        ("embeddings.cls_token", f"{_FIRST_LAYER}attention.q_proj.weight", f"{_FIRST_LAYER}mlp.fc1.weight"),
        networks={"content_encoder": infer_dinov2},
        configs=CONFIGS,
    ),
    Format(
        "dinov2-gated-in-memory",
        "the giant image encoder of DINOv2 in the names that transformers 5 has in memory",
        {"content_encoder": DINOV2_GATED_IN_MEMORY},
        ("embeddings.cls_token", f"{_FIRST_LAYER}attention.q_proj.weight", f"{_FIRST_LAYER}mlp.gate_proj.weight"),
        networks={"content_encoder": infer_dinov2},
        configs=CONFIGS,
    ),
)


def dinov2_config(sizes: DINOv2Sizes) -> Json:
    """Returns the config of `Dinov2Model`, or of `Dinov2WithRegistersModel`.

    Raises:
        ValueError: the class has no feedforward layers of that width.
    """
    registers = {"num_register_tokens": sizes.registers} if sizes.registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if sizes.registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if sizes.registers else "dinov2",
        "hidden_size": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "mlp_ratio": _mlp_ratio(sizes),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "image_size": sizes.grid * sizes.patch,
        "patch_size": sizes.patch,
        "num_channels": 3,
        "qkv_bias": True,
        "use_swiglu_ffn": sizes.gated,
        **registers,
    }


def _mlp_ratio(sizes: DINOv2Sizes) -> int:
    """Returns the whole number that public configs have for the width inside the feedforward layers."""
    for ratio in range(1, 17):
        inside = ratio * sizes.features
        if sizes.gated:
            inside = (int(inside * 2 / 3) + 7) // 8 * 8
        if inside == sizes.hidden:
            return ratio
    raise ValueError(
        f"DINOv2's feedforward layers are {sizes.hidden} wide inside; its public class has only whole multiples of the "
        f"{sizes.features} features" + (" (two thirds of them, rounded up to 8)." if sizes.gated else ".")
    )
