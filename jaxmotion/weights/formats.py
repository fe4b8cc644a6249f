"""The formats of public checkpoints that are read and written: which names they have, and which parts they hold.

Parts are the top-level keys of a system's parameters (`denoiser`, `codec`, `text_encoder`, `content_encoder`), and a
few that only metrics use (`image_encoder`, `text_projection`, ...).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.infer import whole
from jaxmotion.weights.rules import (
    LINEAR,
    ConversionError,
    Lazy,
    Rule,
    Rules,
    Tensors,
    conv,
    covered,
    fits,
    parameters,
    shapes_of,
    split_input,
    spoken_of,
    tensors_of,
    under,
)
from jaxmotion.weights.tables import (
    animatediff,
    autoencoder,
    autoencoder3d,
    clip,
    cogvideox,
    dinov2,
    latent_diffusion,
    raft,
    stable_diffusion,
    t5,
    tadaconv,
)
from jaxmotion.weights.tables.autoencoder_tiny import AUTOENCODER_TINY
from jaxmotion.weights.tables.autoencoder_tiny3d import ENCODER, TINY_DECODER_3D
from jaxmotion.weights.tensor_files import Checkpoint

Parts = Mapping[str, Rules]
"""For each part, the rules between names of the format and paths below the part."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One spelling of one kind of checkpoint.

    name:    what commands call it.
    holds:   what it is, in words.
    parts:   the rules of each part that it may hold.
    marks:   names that every file of this format has, and by which it is told from the others.
    lacks:   patterns of names that no file of this format has.
    axes:    how many axes tensors have, where two formats have the same names.
    ignored: patterns of names that are no parameters and are kept beside them.
    """

    name: str
    holds: str
    parts: Parts
    marks: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    axes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def fits(self, tensors: Tensors) -> bool:
        """Whether a checkpoint with these tensors is of this format."""
        names = set(tensors)
        return (
            names.issuperset(self.marks)
            and not any(fits(self.lacks, name) for name in names)
            and all(name in names and len(tensors[name].shape) == axes for name, axes in self.axes.items())
        )

    def parts_of(self, tensors: Tensors) -> dict[str, Rules]:
        """The parts that a checkpoint holds, with the rule of a widened first convolution if it has one."""
        found = {part: rules for part, rules in self.parts.items() if any(spoken_of(rules, name) for name in tensors)}
        wide = tensors.get(_FIRST)
        if "denoiser" in found and wide is not None and wide.shape[1] > (plain := _plain_channels(tensors)):
            found["denoiser"] = widened(found["denoiser"], plain)
        return found


_FIRST, _LAST = "conv_in.weight", "conv_out.weight"
_LATENT_CHANNELS = 4


def _plain_channels(tensors: Tensors) -> int:
    """How many input channels are z_t's: as many as come out; of an adapter, which has no end, four."""
    return tensors[_LAST].shape[0] if _LAST in tensors else _LATENT_CHANNELS


def widened(rules: Rules, plain: int) -> Rules:
    """The rules with a first convolution over z_t (`plain` channels) and condition channels in one tensor."""
    joint = Rule(_FIRST, ("conv_in/kernel", "conv_condition/kernel"), split_input(plain))
    return (*(rule for rule in rules if rule.names != (_FIRST,)), joint)


_MOTION = "down_blocks.0.motion_modules.0."
_RESNET = "down_blocks.0.resnets.0.conv1.weight"
_DECODER = "decoder.mid_block.attentions.0."
_LAYER = "encoder.layer.0."
_EXPERT, _PATCHES = "transformer_blocks.0.norm1.linear.weight", "patch_embed.proj.weight"

FORMATS = (
    Format(
        "diffusers-unet",
        "a U-Net of Stable Diffusion 1.5 as diffusers saves it (UNet2DConditionModel)",
        {"denoiser": stable_diffusion.UNET},
        (_FIRST, _RESNET),
        lacks=("*motion_modules*",),
    ),
    Format(
        "diffusers-unet-motion",
        "a U-Net with motion modules as diffusers saves it (UNetMotionModel)",
        {"denoiser": (*stable_diffusion.UNET, *stable_diffusion.MOTION)},
        (_FIRST, _RESNET, f"{_MOTION}proj_in.weight"),
        ignored=stable_diffusion.MOTION_BUFFERS,
    ),
    Format(
        "diffusers-motion",
        "motion modules as diffusers saves them (MotionAdapter)",
        {"denoiser": stable_diffusion.MOTION},
        (f"{_MOTION}proj_in.weight",),
        lacks=(_RESNET, _FIRST),
        ignored=stable_diffusion.MOTION_BUFFERS,
    ),
    Format(
        "diffusers-motion-input",
        "motion modules and a first convolution as diffusers saves them (MotionAdapter with conv_in_channels)",
        {"denoiser": (*stable_diffusion.MOTION, *conv("conv_in", "conv_in"))},
        (f"{_MOTION}proj_in.weight", _FIRST),
        lacks=(_RESNET,),
        ignored=stable_diffusion.MOTION_BUFFERS,
    ),
    Format(
        "animatediff",
        "motion modules as AnimateDiff and ComfyUI name them",
        {"denoiser": animatediff.ANIMATEDIFF},
        (f"{_MOTION}temporal_transformer.proj_in.weight",),
        ignored=animatediff.ANIMATEDIFF_POSITIONS,
    ),
    Format(
        "animatediff-module",
        "motion modules as AnimateDiff names them, saved from several devices",
        {"denoiser": under(animatediff.WRAPPED, "", animatediff.ANIMATEDIFF)},
        (f"{animatediff.WRAPPED}{_MOTION}temporal_transformer.proj_in.weight",),
        ignored=tuple(animatediff.WRAPPED + name for name in animatediff.ANIMATEDIFF_POSITIONS),
    ),
    Format(
        "sd-single-file",
        "Stable Diffusion 1.5 in one file, in the names of latent diffusion",
        latent_diffusion.SINGLE_FILE,
        ("model.diffusion_model.input_blocks.0.0.weight",),
        lacks=("cond_stage_model.transformer.embeddings.token_embedding.weight", "*temporal_transformer*"),
        ignored=latent_diffusion.LEFT_BY_TRAINING,
    ),
    Format(
        "sd-single-file-bare",
        "Stable Diffusion 1.5 in one file, its text encoder without text_model.",
        latent_diffusion.SINGLE_FILE_BARE,
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            "cond_stage_model.transformer.embeddings.token_embedding.weight",
        ),
        ignored=latent_diffusion.LEFT_BY_TRAINING,
    ),
    Format(
        "diffusers-vae",
        "an autoencoder of Stable Diffusion as diffusers saves it (AutoencoderKL)",
        {"codec": autoencoder.AUTOENCODER},
        ("quant_conv.weight", f"{_DECODER}to_q.weight"),
    ),
    Format(
        "diffusers-vae-old",
        "an autoencoder of Stable Diffusion as diffusers saved it until 2023 (AutoencoderKL)",
        {"codec": autoencoder.AUTOENCODER_OLD},
        ("quant_conv.weight", f"{_DECODER}query.weight"),
    ),
    Format(
        "ldm-vae",
        "an autoencoder of Stable Diffusion in the names of latent diffusion",
        {"codec": latent_diffusion.LDM_AUTOENCODER},
        ("quant_conv.weight", "decoder.mid.attn_1.q.weight"),
        ignored=("loss.*", "model_ema.*"),
    ),
    Format(
        "diffusers-vae-tiny",
        "a tiny autoencoder as diffusers saves it (AutoencoderTiny)",
        {"codec": AUTOENCODER_TINY},
        ("encoder.layers.0.weight", "decoder.layers.0.weight"),
    ),
    Format(
        "taehv",
        "a tiny video autoencoder, whose decoder makes previews (TAEHV, such as taecvx)",
        {"preview": TINY_DECODER_3D},
        ("decoder.1.weight", "decoder.3.conv.0.weight", "decoder.22.weight"),
        ignored=ENCODER,
    ),
    Format(
        "clip-text",
        "a text encoder of CLIP (CLIPTextModel)",
        {"text_encoder": clip.CLIP_TEXT},
        ("text_model.embeddings.token_embedding.weight",),
        lacks=("vision_model.*", "text_projection.weight"),
        ignored=clip.BUFFERS,
    ),
    Format(
        "clip-text-bare",
        "a text encoder of CLIP, its names without text_model.",
        {"text_encoder": clip.CLIP_TEXT_BARE},
        ("embeddings.token_embedding.weight", "final_layer_norm.weight"),
        lacks=("vision_model.*",),
        ignored=clip.BUFFERS,
    ),
    Format(
        "clip",
        "both encoders of CLIP (CLIPModel), or one of them with its projection",
        {
            "text_encoder": clip.CLIP_TEXT,
            "text_projection": (Rule("text_projection.weight", "kernel", LINEAR),),
            "image_encoder": clip.CLIP_VISION,
            "image_projection": (Rule("visual_projection.weight", "kernel", LINEAR),),
            "clip": (Rule("logit_scale", "logit_scale"),),
        },
        (),
        lacks=("model.diffusion_model.*", "cond_stage_model.*"),
        ignored=clip.BUFFERS,
    ),
    Format(
        "dinov2",
        "an image encoder of DINOv2 (Dinov2Model)",
        {"content_encoder": dinov2.DINOV2},
        ("embeddings.cls_token", f"{_LAYER}attention.attention.query.weight", f"{_LAYER}mlp.fc1.weight"),
    ),
    Format(
        "dinov2-gated",
        "the giant image encoder of DINOv2 (Dinov2Model)",
        {"content_encoder": dinov2.DINOV2_GATED},
        ("embeddings.cls_token", f"{_LAYER}attention.attention.query.weight", f"{_LAYER}mlp.weights_in.weight"),
    ),
    Format(
        "dinov2-in-memory",
        "an image encoder of DINOv2 in the names that transformers 5 has in memory",
        {"content_encoder": dinov2.DINOV2_IN_MEMORY},
        ("embeddings.cls_token", f"{_LAYER}attention.q_proj.weight", f"{_LAYER}mlp.fc1.weight"),
    ),
    Format(
        "dinov2-gated-in-memory",
        "the giant image encoder of DINOv2 in the names that transformers 5 has in memory",
        {"content_encoder": dinov2.DINOV2_GATED_IN_MEMORY},
        ("embeddings.cls_token", f"{_LAYER}attention.q_proj.weight", f"{_LAYER}mlp.gate_proj.weight"),
    ),
    Format(
        "cogvideox",
        "a transformer of CogVideoX 2B, 5B or 5B-I2V as diffusers saves it (CogVideoXTransformer3DModel)",
        {"denoiser": cogvideox.COGVIDEOX},
        (_EXPERT,),
        axes={_PATCHES: 4},
    ),
    Format(
        "cogvideox-1.5",
        "a transformer of CogVideoX1.5 as diffusers saves it (CogVideoXTransformer3DModel)",
        {"denoiser": cogvideox.COGVIDEOX_1_5},
        (_EXPERT,),
        axes={_PATCHES: 2},
    ),
    Format(
        "cogvideox-vae",
        "an autoencoder of CogVideoX as diffusers saves it (AutoencoderKLCogVideoX)",
        {"codec": autoencoder3d.AUTOENCODER3D},
        ("encoder.conv_in.conv.weight", "decoder.norm_out.conv_y.conv.weight"),
    ),
    Format(
        "t5",
        "a text encoder of T5 v1.1 (T5EncoderModel)",
        {"text_encoder": t5.T5},
        ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"),
        ignored=t5.SHARED_AGAIN,
    ),
    Format(
        "raft-small",
        "a small RAFT of its authors",
        {"flow": raft.RAFT_SMALL},
        ("module.fnet.layer1.0.conv3.weight", "module.update_block.gru.convz.weight"),
    ),
    Format(
        "raft-large",
        "a RAFT of its authors",
        {"flow": raft.RAFT_LARGE},
        ("module.update_block.mask.0.weight", "module.update_block.gru.convz1.weight"),
        ignored=raft.COUNTS,
    ),
    Format(
        "tada2d",
        "a TAda2D of its authors (model_state)",
        {"backbone": tadaconv.TADA2D},
        ("backbone.conv2.res_1.conv_branch.b_rf.g.weight",),
        ignored=tadaconv.HEAD,
    ),
    Format(
        "tadaconvnextv2",
        "a TAdaConvNeXtV2 of its authors (model_state)",
        {"backbone": tadaconv.TADACONVNEXTV2},
        ("backbone.stages.0.0.dwconv_rf.qkv_proj.weight",),
        ignored=tadaconv.HEAD,
    ),
)

BY_NAME = {each.name: each for each in FORMATS}


def detect(checkpoint: Checkpoint) -> Format:
    """The format of a checkpoint.

    Raises:
        CheckpointFileError: it is of none of the known ones.
    """
    fitting = [each for each in FORMATS if each.fits(checkpoint)]
    counts = {each.name: sum(_known(each, name) for name in checkpoint) for each in fitting}
    best = max(fitting, key=lambda each: counts[each.name], default=None)
    if best is None or not counts[best.name]:
        names = ", ".join(list(checkpoint)[:4])
        known = "".join(f"\n  {each.name}: {each.holds}" for each in FORMATS)
        raise CheckpointFileError(
            f"{checkpoint.path} is of no known format; it holds {len(checkpoint)} tensors such as {names}. "
            f"Known are:{known}"
        )
    return best


def named(name: str, checkpoint: Checkpoint) -> Format:
    """The format called so; `auto` looks at the checkpoint.

    Raises:
        ValueError: there is no such format.
        CheckpointFileError: the checkpoint is of another one.
    """
    if name == "auto":
        return detect(checkpoint)
    if name not in BY_NAME:
        raise ValueError(f"There is no format {name!r}; known are auto, {', '.join(BY_NAME)}.")
    if not BY_NAME[name].fits(checkpoint):
        found = detect(checkpoint)
        raise CheckpointFileError(f"{checkpoint.path} is not {BY_NAME[name].holds}; it is {found.holds}.")
    return BY_NAME[name]


def read(checkpoint: Checkpoint, kind: Format, like: Mapping[str, Any] | None = None) -> dict[str, Lazy]:
    """The parameters in a checkpoint, by path with the part in front, each made when it is asked for.

    Args:
        like: shapes by path of the parameters that are wanted. Parts of the checkpoint that none of them is in are left
            out. Without it, the checkpoint must hold all parameters of networks of its own sizes.

    Raises:
        ConversionError: the checkpoint does not hold exactly these.
    """
    tables = kind.parts_of(checkpoint)
    if like is not None:
        tables = {part: rules for part, rules in tables.items() if any(path.startswith(f"{part}/") for path in like)}
    made: dict[str, Lazy] = {}
    problems: list[ConversionError] = []
    foreign = [name for name in checkpoint if not _known(kind, name)]
    for part, rules in tables.items():
        mine = {name: checkpoint[name] for name in checkpoint if spoken_of(rules, name)}
        try:
            found = parameters(rules, mine, _wanted(part, rules, mine, like))
        except ConversionError as error:
            problems.append(error)
        else:
            made.update({f"{part}/{path}": array for path, array in found.items()})
    if problems or foreign:
        lists = {
            name: [line for error in problems for line in getattr(error, name)]
            for name in ("missing", "unexpected", "wrong_shape", "wrong_dtype")
        }
        lists["unexpected"] = [*foreign, *lists["unexpected"]]
        raise ConversionError(**lists, source=f"{checkpoint.path} ({kind.holds})")
    return made


def kept(checkpoint: Checkpoint, kind: Format) -> dict[str, Lazy]:
    """The tensors of a checkpoint that are no parameters, such as tables of positions."""
    return {name: checkpoint[name] for name in checkpoint if fits(kind.ignored, name)}


def write(params: Mapping[str, Any], tables: Parts) -> dict[str, Lazy]:
    """The tensors of a checkpoint from parameters (array-likes by path with the part in front), by these rules."""
    tensors: dict[str, Lazy] = {}
    for part, rules in tables.items():
        mine = {path.removeprefix(f"{part}/"): array for path, array in params.items() if path.startswith(f"{part}/")}
        tensors.update(tensors_of(rules, mine))
    return tensors


def _known(kind: Format, name: str) -> bool:
    return fits(kind.ignored, name) or any(spoken_of(rules, name) for rules in kind.parts.values())


def _wanted(part: str, rules: Rules, mine: Tensors, like: Mapping[str, Any] | None) -> dict[str, Any]:
    if like is not None:
        below = {path.removeprefix(f"{part}/"): array for path, array in like.items() if path.startswith(f"{part}/")}
        wanted = covered(rules, below)
        return {path: array for path, array in below.items() if path in wanted}
    seen = shapes_of(rules, mine)
    try:
        network = whole(part, seen)
    except KeyError as error:
        raise ConversionError(missing=[f"{part}/{error.args[0]} (by which the sizes are told)"]) from error
    wanted = covered(rules, network)
    return {path: array for path, array in network.items() if path in wanted}
