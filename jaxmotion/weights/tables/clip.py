"""CLIP, as transformers names it.

Public files have the text encoder under `text_model.`; the text encoder alone, as transformers 5 saves it, has not.
The same holds for the image encoder and `vision_model.`.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxmotion.foundation.config_json import Json
from jaxmotion.models.clip import CLIPText, CLIPTextSizes, CLIPVision, CLIPVisionSizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.config_fields import HEADER, UNSAID, ConfigField, ConfigTable, Value, attribute, fixed
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import LINEAR, Rule, Transform, linear, norm, under
from jaxmotion.weights.tables.patches import PATCHES

_LAYERS = under(
    "encoder.layers.{stack}.",
    "stack/layers/",
    (
        *norm("layer_norm1", "norm_attention"),
        *linear("self_attn.q_proj", "attention/query"),
        *linear("self_attn.k_proj", "attention/key"),
        *linear("self_attn.v_proj", "attention/value"),
        *linear("self_attn.out_proj", "attention/out"),
        *norm("layer_norm2", "norm_mlp"),
        *linear("mlp.fc1", "mlp/linear_in"),
        *linear("mlp.fc2", "mlp/linear_out"),
    ),
)

CLIP_TEXT_BARE = (
    Rule("embeddings.token_embedding.weight", "tokens"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *_LAYERS,
    *norm("final_layer_norm", "norm_out"),
)
CLIP_VISION_BARE = (
    Rule("embeddings.class_embedding", "cls"),
    Rule("embeddings.patch_embedding.weight", "patches/kernel", PATCHES),
    Rule("embeddings.position_embedding.weight", "positions"),
    *norm("pre_layrnorm", "norm_in"),
    *_LAYERS,
    *norm("post_layernorm", "norm_out"),
)
CLIP_TEXT = under("text_model.", "", CLIP_TEXT_BARE)
CLIP_VISION = under("vision_model.", "", CLIP_VISION_BARE)
CLIP_TEXT_TOWER = (*under("", "encoder/", CLIP_TEXT), Rule("text_projection.weight", "projection/kernel", LINEAR))
CLIP_VISION_TOWER = (*under("", "encoder/", CLIP_VISION), Rule("visual_projection.weight", "projection/kernel", LINEAR))
CLIP = (
    *under("", "text/", CLIP_TEXT_TOWER),
    *under("", "image/", CLIP_VISION_TOWER),
    Rule("logit_scale", "logit_scale"),
)


def _joined(parts: int) -> Transform:
    """Returns how a projection to queries, keys and values in one tensor there is three here."""

    def split(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.split(x.T, parts, axis=-1))

    return Transform(split, lambda *each: (np.concatenate(each, axis=-1).T,))


def _paths(leaf: str) -> tuple[str, ...]:
    return tuple(f"attention/{name}/{leaf}" for name in ("query", "key", "value"))


OPEN_CLIP_TEXT = (
    Rule("token_embedding.weight", "tokens"),
    Rule("positional_embedding", "positions"),
    *under(
        "transformer.resblocks.{stack}.",
        "stack/layers/",
        (
            *norm("ln_1", "norm_attention"),
            Rule("attn.in_proj_weight", _paths("kernel"), _joined(3)),
            Rule("attn.in_proj_bias", _paths("bias"), _joined(3)),
            *linear("attn.out_proj", "attention/out"),
            *norm("ln_2", "norm_mlp"),
            *linear("mlp.c_fc", "mlp/linear_in"),
            *linear("mlp.c_proj", "mlp/linear_out"),
        ),
    ),
    *norm("ln_final", "norm_out"),
)
"""The text encoder in the names of OpenCLIP (`open_clip_pytorch_model.bin`), and of CLIP's own code."""

LAST_OF_H14 = "transformer.resblocks.23.*"
"""The last layer of ViT-H/14, which networks that read the one before it leave in the file."""

BUFFERS = (
    "embeddings.position_ids",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
)
"""Numbers 0, 1, 2, ... that older files keep beside the parameters."""


def infer_clip_text(seen: Shapes) -> Network:
    """Returns the text encoder."""
    (vocabulary, features), length = seen["tokens"], seen["positions"][0]
    depth, _, hidden = seen["stack/layers/mlp/linear_in/kernel"]
    return CLIPText(CLIPTextSizes(vocabulary, length, features, depth, 1, hidden)), (jnp.zeros((1, 1), jnp.int32),)


def infer_clip_image(seen: Shapes) -> Network:
    """Returns the image encoder."""
    inputs, features = seen["patches/kernel"]
    depth, _, hidden = seen["stack/layers/mlp/linear_in/kernel"]
    patch, grid = math.isqrt(inputs // 3), math.isqrt(seen["positions"][0] - 1)
    sizes = CLIPVisionSizes(patch * grid, patch, features, depth, 1, hidden)
    return CLIPVision(sizes), (jnp.zeros((1, patch, patch, 3)),)


_EARLIER_END = 2
"""What every config of transformers before 4.31 calls the end token, whatever the tokenizer makes."""


def _end_token(config: Json) -> Value:
    token = config.get("eos_token_id", UNSAID)
    return UNSAID if token == _EARLIER_END else token


def _layer_from_end(name: str) -> ConfigField:
    """Which layer, counted from the end, is read as the last hidden state; tools call it clip skip."""

    def read(config: Json) -> Value:
        return UNSAID if str(config.get(name, "None")) in ("None", "0", "") else str(config[name])

    return ConfigField(name, UNSAID, lambda _: "1", read=read, decides=False)


_TEXT_FIELDS = (
    attribute("hidden_act", "quick_gelu", "activation"),
    *fixed(layer_norm_eps=1e-5),
    attribute("num_attention_heads", 8, "heads"),
    ConfigField("eos_token_id", UNSAID, lambda sizes: sizes.end_token, "end_token", decides=False, read=_end_token),
)
TEXT_CONFIG = ConfigTable(CLIPTextSizes, _TEXT_FIELDS, inside="text_config")
TEXT_HEADER = ConfigTable(
    CLIPTextSizes, (_layer_from_end("modelspec.encoder_layer"), _layer_from_end("ss_clip_skip")), HEADER
)

FORMATS = (
    Format(
        "clip-text",
        "a text encoder of CLIP (CLIPTextModel)",
        {"text_encoder": CLIP_TEXT},
        ("text_model.embeddings.token_embedding.weight",),
        forbidden=("vision_model.*", "text_projection.weight"),
        ignored=BUFFERS,
        networks={"text_encoder": infer_clip_text},
        configs={"text_encoder": (TEXT_CONFIG,)},
    ),
    Format(
        "clip-text-bare",
        "a text encoder of CLIP, its names without text_model.",
        {"text_encoder": CLIP_TEXT_BARE},
        ("embeddings.token_embedding.weight", "final_layer_norm.weight"),
        forbidden=("vision_model.*",),
        ignored=BUFFERS,
        networks={"text_encoder": infer_clip_text},
        configs={"text_encoder": (TEXT_CONFIG,)},
    ),
    Format(
        "clip",
        "both encoders of CLIP (CLIPModel), or one of them with its projection",
        {
            "text_encoder": CLIP_TEXT,
            "text_projection": (Rule("text_projection.weight", "kernel", LINEAR),),
            "image_encoder": CLIP_VISION,
            "image_projection": (Rule("visual_projection.weight", "kernel", LINEAR),),
            "clip": (Rule("logit_scale", "logit_scale"),),
        },
        (),
        forbidden=("model.diffusion_model.*", "cond_stage_model.*"),
        ignored=BUFFERS,
        networks={"text_encoder": infer_clip_text, "image_encoder": infer_clip_image},
        configs={"text_encoder": (TEXT_CONFIG,)},
    ),
    Format(
        "open-clip-text",
        "a text encoder of OpenCLIP, with or without the image encoder beside it",
        {"text_encoder": OPEN_CLIP_TEXT},
        ("token_embedding.weight", "positional_embedding", "transformer.resblocks.0.attn.in_proj_weight"),
        ignored=("visual.*", "text_projection", "logit_scale", "attn_mask", LAST_OF_H14),
        networks={"text_encoder": infer_clip_text},
    ),
)

LORA_PARTS = (
    LoRAPart(
        "text_encoder", "text_encoder", ("lora_te", "lora_te1"), (CLIP_TEXT, CLIP_TEXT_BARE), "the text encoder of CLIP"
    ),
)


def clip_text_config(sizes: CLIPTextSizes) -> Json:
    """Returns the config of `CLIPTextModel`."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.features,
        "intermediate_size": sizes.hidden,
        "projection_dim": sizes.features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": sizes.length,
        "hidden_act": sizes.activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": sizes.start_token,
        "eos_token_id": sizes.end_token,
        "pad_token_id": sizes.end_token if sizes.pad_token is None else sizes.pad_token,
    }
