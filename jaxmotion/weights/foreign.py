"""Checkpoints that are not read, told by the names and shapes of their tensors, and what would do instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from jaxmotion.foundation.types import Shaped
from jaxmotion.weights.checkpoint_format import INPUT_CONV, Format
from jaxmotion.weights.rules import parameter_paths_of

_SD15 = "take one of Stable Diffusion 1.5"
_COGVIDEOX = "take the folder of diffusers, such as THUDM/CogVideoX-5b-I2V"
_LATENT_DIFFUSION_INPUT = "model.diffusion_model.input_blocks.0.0.weight"


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A kind of checkpoint that is not read.

    mark:   regular expression that is found in one of its names, and in no name of what is read.
    what:   the kind of checkpoint, in words.
    remedy: what would do instead.
    shape:  the shape of the tensor with the mark where the name alone does not tell; None stands for any size.
    unless: regular expression that is found in none of its names.
    """

    mark: str
    what: str
    remedy: str
    shape: tuple[int | None, ...] | None = None
    unless: str = r"$^"

    def has(self, name: str, tensor: Shaped) -> bool:
        """Returns whether a tensor has the mark."""
        if re.search(self.mark, name) is None:
            return False
        shape = tuple(tensor.shape)
        return self.shape is None or (
            len(shape) == len(self.shape) and all(b in (None, a) for a, b in zip(shape, self.shape, strict=True))
        )


_MERGE = "merge it into one (python -m jaxmotion.convert merge BASE THIS OUT), or give it to --pretrained.lora.source"
_T5 = "take T5 v1.1, such as google/t5-v1_1-xxl or the text_encoder of CogVideoX"
_LORA = r"(\.lora_(A|B)\.|lora_(up|down)\.|\.lora\.(up|down)\.|_lora\.(up|down)\.|lora_linear_layer)"
_ADAPTER = r"^(adapter\.)?body\.\d+\.(resnets\.\d+\.)?block[12]\."
_MODELSCOPE = r"^transformer_in\."
_CODES = r"\.(qweight|absmax|quant_map|SCB|scale_weight|weight_scale)$|quant_state\.|^scaled_fp8$"

KINDS = (
    Foreign(rf"motion_modules.*{_LORA}", "a motion LoRA of AnimateDiff, which changes modules and is none", _MERGE),
    Foreign(_LORA, "a LoRA, which changes a network and is none", _MERGE),
    Foreign(r"\.(lokr_w1|lokr_w2|hada_w1_a|hada_w2_a|oft_blocks)", "an adapter (LoHa, LoKr, OFT), which is not read",
            "take the checkpoint that it was merged into"),
    Foreign(r"(^|\.)(controlnet_cond_embedding|controlnet_down_blocks|input_hint_block)\.|^control_model\.",
            "a ControlNet, which no system here has a place for", _SD15),
    Foreign(r"^(image_proj|ip_adapter)\.", "an IP-Adapter, which no system here has a place for", _SD15),
    Foreign(_ADAPTER, "a T2I-Adapter, which no system here has a place for", _SD15),
    Foreign(r"^(string_to_param\..*|emb_params|clip_g|clip_l)$", "a textual inversion: vectors of a new word",
            "give the checkpoint that it was made for"),
    Foreign(r"temporal_transformer_blocks\.|time_stack\.|\.time_mixer\.", "of Stable Video Diffusion, not read", _SD15),
    Foreign(r"^(add_embedding\.linear_1|conditioner\.embedders|model\.diffusion_model\.label_emb)\.",
            "of Stable Diffusion XL, which is not read", _SD15),
    Foreign(r"^cond_stage_model\.model\.transformer\.resblocks\.", "of Stable Diffusion 2, which is not read", _SD15),
    Foreign(r"^(down_blocks\.\d\.attentions\.0|model\.diffusion_model\.input_blocks\.\d+\.1)\.proj_in\.weight$",
            "of Stable Diffusion 2, which is not read", _SD15, shape=(None, None), unless=_MODELSCOPE),
    Foreign(r"(^|\.)joint_blocks\.\d+\.|^transformer_blocks\.\d+\.attn\.add_q_proj\.",
            "of Stable Diffusion 3 or FLUX, which are not read", _SD15),
    Foreign(r"(^|\.)double_blocks\.\d+\.|^single_transformer_blocks\.\d+\.",
            "of FLUX or HunyuanVideo, which are not read", _COGVIDEOX),
    Foreign(r"(^|\.)blocks\.\d+\.cross_attn\.k\.|^condition_embedder\.time_embedder\.", "of Wan, which is not read",
            _COGVIDEOX),
    Foreign(r"(^|\.)patchify_proj\.", "of LTX-Video, which is not read", _COGVIDEOX),
    Foreign(r"(^|\.)temporal_attentions\.\d+\.", "of Hotshot-XL, which is not read", "take AnimateDiff's modules"),
    Foreign(r"(^|\.)transformer\.layers\.\d+\.attention\.query_key_value\.",
            "CogVideoX in the names of SAT, which are not read", _COGVIDEOX),
    Foreign(r"^(first_stage_model\.)?encoder\.down\.\d+\.block\.\d+\.conv1\.conv\.",
            "CogVideoX's autoencoder in the names of SAT, which are not read", "take the folder vae of diffusers"),
    Foreign(r"^encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.weight$", "of T5 1.0, which is not read", _T5),
    Foreign(r"encoder\.block\.1\.layer\.0\.SelfAttention\.relative_attention_bias\.", "of UMT5, not read", _T5),
    Foreign(r"^(model\.)?(transformer|visual\.transformer)\.resblocks\.\d+\.", "of OpenCLIP, which is not read",
            "take CLIP in the names of transformers, such as openai/clip-vit-large-patch14",
            unless=r"^token_embedding\.weight$"),
    Foreign(r"^quantize\.embedding\.weight$", "an autoencoder with a codebook, which is not read",
            "take the vae of Stable Diffusion 1.5"),
    Foreign(r"^encoder\.conv_out\.weight$", "an autoencoder of 16 latent channels, as Stable Diffusion 3 and FLUX have",
            "take the vae of Stable Diffusion 1.5", shape=(32, None, 3, 3), unless=r"^quant_conv\."),
    Foreign(_CODES, "quantised (8 bits or fewer), which is not read", "take a version in float16, bfloat16 or float32"),
)  # fmt: skip
"""Looked for in this order."""

_CHANNELS = {
    9: "an inpainting U-Net, which reads a mask and a masked picture beside the latents",
    8: "a U-Net of InstructPix2Pix, which reads a picture beside the latents",
    5: "a U-Net that reads depth beside the latents",
    7: "a U-Net for upscaling",
}
"""Public U-Nets whose first convolution is wider than the latents, by its channels."""


def describe(tensors: Mapping[str, Shaped]) -> str:
    """Returns what a checkpoint is that is not read, and what would do; empty if it is none of these."""
    for kind in KINDS:
        is_other = any(re.search(kind.unless, name) for name in tensors)
        if not is_other and any(kind.has(name, tensor) for name, tensor in tensors.items()):
            return f"{kind.what}; {kind.remedy}"
    return ""


def describe_input(tensors: Mapping[str, Shaped], kind: Format) -> str:
    """Returns what a U-Net with a widened first convolution is; empty if its channels are those of no public one."""
    kernel = tensors.get(kind.wrapper + INPUT_CONV, tensors.get(_LATENT_DIFFUSION_INPUT))
    return _CHANNELS.get(kernel.shape[1], "") if kernel is not None else ""


def explain_mismatch(tensors: Mapping[str, Shaped], kind: Format, like: Mapping[str, Shaped]) -> str:
    """Returns what a checkpoint looks like that does not fit the parameters, and what would do; empty if unknown.

    Args:
        like: shapes by path of the parameters that were wanted.
    """
    if not like:
        return ""
    names = [name.removeprefix(kind.wrapper) for name in tensors]
    lines = _explain_part(tensors, kind, like), _explain_input(tensors, kind, like), _explain_motion(names, like)
    return next(filter(None, lines), "")


def _explain_part(tensors: Mapping[str, Shaped], kind: Format, like: Mapping[str, Shaped]) -> str:
    """Returns a line on a part of which not one parameter is wanted."""
    for part, rules in kind.parts.items():
        found = {path for name in tensors for path in parameter_paths_of(rules, name) or ()}
        wanted = {path.removeprefix(f"{part}/") for path in like if path.startswith(f"{part}/")}
        if found and wanted and not found & wanted:
            return f"It is another network than the {part} of the experiment, which has none of its layers."
    return ""


def _explain_input(tensors: Mapping[str, Shaped], kind: Format, like: Mapping[str, Shaped]) -> str:
    """Returns a line on a first convolution of other channels or features."""
    kernel = tensors.get(kind.wrapper + INPUT_CONV, tensors.get(_LATENT_DIFFUSION_INPUT))
    wanted = like.get("denoiser/conv_in/kernel")
    if kernel is None or wanted is None:
        return ""
    latents = wanted.shape[2]
    extra = like["denoiser/conv_condition/kernel"].shape[2] if "denoiser/conv_condition/kernel" in like else 0
    if kernel.shape[1] not in (latents, latents + extra) and kernel.shape[1] in _CHANNELS:
        return f"It is {_CHANNELS[kernel.shape[1]]}; {_SD15} whose first convolution takes {latents} channels."
    if kernel.shape[0] != wanted.shape[3]:
        return (
            f"Its first stage has {kernel.shape[0]} features, that of the experiment {wanted.shape[3]}: they are of "
            "different sizes. Published weights fit the full configs."
        )
    return ""


def _explain_motion(names: Sequence[str], like: Mapping[str, Shaped]) -> str:
    """Returns a line on motion modules in other places."""
    found = {name.partition(".motion_modules.")[0] for name in names if ".motion_modules." in name}
    wanted = {path.split("/")[1] for path in like if path.startswith("denoiser/") and "/motion/" in path}
    stages = {int(place.split("_")[1]) for place in wanted if place.startswith("down_")}
    has = {int(place.removeprefix("down_blocks.")) for place in found if place.startswith("down_blocks.")}
    if not has or not stages:
        return ""
    if has != stages:
        return (
            f"Its motion modules are for {len(has)} stages, the experiment has {len(stages)}: AnimateDiff's for "
            "Stable Diffusion 1.5 have 4, those for SDXL 3."
        )
    if "mid_block" in found and "middle" not in wanted:
        return (
            "It has a motion module in the middle, as AnimateDiff v2 has: set motion_in_middle of the system, or take "
            "AnimateDiff v1 or v3."
        )
    if "middle" in wanted and "mid_block" not in found:
        return "It has no motion module in the middle, which AnimateDiff v2 has (motion_in_middle of the system)."
    return ""
