"""The encoder of T5 v1.1, as transformers names it (T5EncoderModel)."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmotion.foundation.config_json import Json
from jaxmotion.models.t5 import T5Encoder, T5Sizes
from jaxmotion.weights.checkpoint_format import Format, Network, Shapes
from jaxmotion.weights.config_fields import ConfigField, ConfigTable, attribute, fixed
from jaxmotion.weights.lora_names import LoRAPart
from jaxmotion.weights.rules import JOINED_KERNEL, LINEAR, Rule, under

_ATTENTION, _MLP = "layer.0.SelfAttention", "layer.1.DenseReluDense"
_LAYER = (
    Rule("layer.0.layer_norm.weight", "norm_attention/scale"),
    Rule(f"{_ATTENTION}.q.weight", "query/kernel", LINEAR),
    Rule(f"{_ATTENTION}.k.weight", "key/kernel", LINEAR),
    Rule(f"{_ATTENTION}.v.weight", "value/kernel", LINEAR),
    Rule(f"{_ATTENTION}.o.weight", "out/kernel", LINEAR),
    Rule("layer.1.layer_norm.weight", "norm_mlp/scale"),
    Rule((f"{_MLP}.wi_0.weight", f"{_MLP}.wi_1.weight"), "mlp/linear_in/kernel", JOINED_KERNEL),
    Rule(f"{_MLP}.wo.weight", "mlp/linear_out/kernel", LINEAR),
)

T5 = (
    Rule("shared.weight", "tokens"),
    Rule(f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight", "distances"),
    *under("encoder.block.{stack}.", "stack/layers/", _LAYER),
    Rule("encoder.final_layer_norm.weight", "norm_out/scale"),
)

SHARED_AGAIN = ("encoder.embed_tokens.weight",)
"""The token vectors under a second name, which older files hold beside the first."""


def infer_t5(seen: Shapes) -> Network:
    """Returns the encoder."""
    (vocabulary, features), (buckets, heads) = seen["tokens"], seen["distances"]
    depth, _, width = seen["stack/layers/query/kernel"]
    sizes = T5Sizes(
        vocabulary=vocabulary,
        features=features,
        depth=depth,
        heads=heads,
        head_features=width // heads,
        hidden=seen["stack/layers/mlp/linear_in/kernel"][3],
        buckets=buckets,
    )
    return T5Encoder(sizes), (jnp.zeros((1, 1), jnp.int32),)


CONFIG = ConfigTable(
    T5Sizes,
    (
        ConfigField("feed_forward_proj", "relu", lambda _: "gated-gelu"),
        attribute("relative_attention_max_distance", 128, "farthest"),
        *fixed(layer_norm_epsilon=1e-6),
        attribute("eos_token_id", 1, "end_token"),
        attribute("pad_token_id", 0, "pad_token"),
    ),
)
_DECODER = ("decoder.*", "lm_head.weight")

FORMATS = (
    Format(
        "t5",
        "a text encoder of T5 v1.1 (T5EncoderModel)",
        {"text_encoder": T5},
        ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"),
        forbidden=_DECODER,
        ignored=SHARED_AGAIN,
        networks={"text_encoder": infer_t5},
        configs={"text_encoder": (CONFIG,)},
    ),
    Format(
        "t5-whole",
        "T5 v1.1 with its decoder, of which the encoder is read (T5ForConditionalGeneration)",
        {"text_encoder": T5},
        (
            "shared.weight",
            "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
            "decoder.block.0.layer.2.DenseReluDense.wi_1.weight",
        ),
        ignored=(*SHARED_AGAIN, *_DECODER),
        networks={"text_encoder": infer_t5},
        configs={"text_encoder": (CONFIG,)},
    ),
)


LORA_PARTS = (LoRAPart("text_encoder", "text_encoder", ("lora_te",), (T5,), "the encoder of T5"),)


def t5_config(sizes: T5Sizes) -> Json:
    """Returns the config of `T5EncoderModel`."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.features,
        "d_kv": sizes.head_features,
        "d_ff": sizes.hidden,
        "num_layers": sizes.depth,
        "num_heads": sizes.heads,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.farthest,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
