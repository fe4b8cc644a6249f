"""LivePhoto as a diffusers pipeline: a photo, a sentence and a motion level become a clip (arXiv:2312.02928).

    from diffusers import DiffusionPipeline
    from diffusers.utils import export_to_video, load_image

    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    clip = pipe(load_image("photo.jpg"), "the camera pans left", motion_level=5).frames[0]
    export_to_video(clip, "clip.mp4", fps=8)

The U-Net is a stock `UNetMotionModel`. What it is told beside the noisy latents, the text and the time stands here:
more input channels (the photo's latent, a map of the frame number, a map of the motion level), the content tokens
(`content_layers.py`), weights of the words (`text_reweighting.py`), and noise that leans towards the photo.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, StableDiffusionMixin
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from diffusers.utils.outputs import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch.nn.functional import interpolate, pad

from jaxmotion.systems.livephoto.pytorch.frame_norm import norm_frames
from jaxmotion.systems.livephoto.pytorch.prior import lean, share_of_steps, spaced, split
from jaxmotion.weights.pytorch.exported_pipeline import (
    ExportedPipeline,
    Steps,
    after_step,
    batched,
    callback_inputs,
    check_call,
    draw_noise,
    one_of,
    refuse,
    repeat_rows,
    set_timesteps,
    text_rows,
    warn_of_cut_prompts,
)
from jaxmotion.weights.pytorch.photos import as_pictures, as_pixels, fit

LEVELS = 10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_batched = partial(batched, "photos as prompts, negative prompts and motion levels")


@dataclass
class LivePhotoPipelineOutput(BaseOutput):
    """`frames`: a list of lists of PIL images, an array [batch, frames, height, width, 3], or a tensor."""

    frames: Any


class LivePhotoPipeline(
    ExportedPipeline,
    DiffusionPipeline,
    StableDiffusionMixin,
    TextualInversionLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    FreeInitMixin,
):
    """Image-to-video with the amount of motion that was asked for.

    text_reweighting, content_encoder, content_layers: there unless the model was trained without them.
    clip: what the model was trained on: num_frames, height, width, and vae_scale_factor (pixels per latent).
    channels: what stands beside the noisy latents, in this order: `reference` (the photo's latent), `frame` (a map that
        runs from 0 on the first frame to 1 on the last), `level` (a map of the motion level times `level_scale`).
    defaults: values of those arguments of a call that are left out.
    motion_norm: what the norms of motion modules average over, the whole `clip` or each `frame`.

    Arguments of a call are those of `AnimateDiffPipeline` and of CogVideoX's image-to-video pipeline, and these:

    image: the photo, of any size: PIL, an array [H, W, 3] (uint8, or floats in [0, 1]), a tensor [3, H, W] in [0, 1],
        or a list or batch of them. Its largest centred part with the clip's shape is used.
    prompt: what moves, and how; or one for each photo. Nothing at all is a prompt, too.
    motion_level: a whole number from 1 (nearly still) to 10; or one for each photo.
    negative_prompt: what guidance leads away from; or one for each photo.
    num_frames: of the clip; only the number that the model was trained on.
    guidance_scale: classifier-free guidance on the text; 1 and less is the plain conditional prediction.
    use_dynamic_cfg: CogVideoX's guidance, which changes from step to step.
    eta: how much noise each step adds, 0 to 1, if the scheduler knows it.
    prior_strength: how far the starting noise leans towards the inverted photo, on the first and on the last frame,
        each in [0, 1]; (0, 0) switches it off.
    num_inversion_steps: steps of that inversion; by default the usual share of the steps that are run.
    latents: the Gaussian noise to start from, [batch, channels, frames, height, width].
    prompt_embeds, negative_prompt_embeds: as `encode_prompt` gives them, [batch, length, features]. What a callback
        sees as `prompt_embeds` is [batch or 2 batch, frames, length, features]: weighted for each frame, the negative
        ones first.
    timesteps, sigmas: a schedule of one's own, if the scheduler takes it.
    max_sequence_length: longer prompts are cut there; never more than the text encoder reads.
    decode_chunk_size: how many frames are decoded together; 0 is all of them.
    """

    model_cpu_offload_seq = "text_encoder->text_reweighting->content_encoder->unet->vae"
    _exclude_from_cpu_offload = ("content_layers",)  # they run inside the U-Net
    _optional_components = ["text_reweighting", "content_encoder", "content_layers"]  # noqa: RUF012
    _callback_tensor_inputs = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def __init__(
        self,
        unet: UNetMotionModel,
        vae,
        tokenizer,
        text_encoder,
        scheduler,
        text_reweighting=None,
        content_encoder=None,
        content_layers=None,
        clip: Any = None,
        channels="reference,frame,level",
        level_scale=1.0,
        defaults: Any = None,
        motion_norm="clip",
    ):
        super().__init__()
        self.register_modules(
            unet=unet,
            vae=vae,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=scheduler,
            text_reweighting=text_reweighting,
            content_encoder=content_encoder,
            content_layers=content_layers,
        )
        self.register_to_config(
            clip=clip, channels=channels, level_scale=level_scale, defaults=defaults, motion_norm=motion_norm
        )
        if motion_norm == "frame":
            norm_frames(unet)
        self.video_processor = VideoProcessor(vae_scale_factor=clip["vae_scale_factor"])

    @torch.no_grad()
    def __call__(
        self, image, prompt=None, motion_level=5, negative_prompt=None, num_frames=None, height=None, width=None,
        num_inference_steps=None, guidance_scale=None, eta=None, prior_strength=None, num_inversion_steps=None,
        generator=None, latents=None, output_type="pil", return_dict=True, decode_chunk_size=None,
        callback_on_step_end=None, callback_on_step_end_tensor_inputs=("latents",), num_videos_per_prompt=1,
        prompt_embeds=None, negative_prompt_embeds=None, timesteps=None, sigmas=None, use_dynamic_cfg=None,
        clip_skip=None, cross_attention_kwargs=None, attention_kwargs=None, max_sequence_length=None,
        ip_adapter_image=None, ip_adapter_image_embeds=None,
    ):  # fmt: skip
        """Animates one photo or several; the arguments are described with the class."""
        check_call(self, output_type, num_inference_steps, num_videos_per_prompt)
        refuse("IP-Adapter", ip_adapter_image=ip_adapter_image, ip_adapter_image_embeds=ip_adapter_image_embeds)
        if self.free_init_enabled:
            refuse("FreeInit with a schedule of one's own", timesteps=timesteps, sigmas=sigmas)
        seen = callback_inputs(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        attention = one_of(cross_attention_kwargs=cross_attention_kwargs, attention_kwargs=attention_kwargs)
        self.begin_call(self._default("guidance_scale", guidance_scale), attention, clip_skip)
        num_frames, size = self._checked_frames(num_frames), self._checked_size(height, width)
        first, last = self._checked_prior(prior_strength)
        texts = text_rows("prompt", prompt, prompt_embeds)
        negatives = text_rows("negative_prompt", negative_prompt, negative_prompt_embeds)
        columns = _batched(as_pictures(image), texts, negatives, self._checked_levels(motion_level))
        photos, texts, negatives, levels = (repeat_rows(column, num_videos_per_prompt) for column in columns)

        pixels = torch.stack([as_pixels(fit(photo, *size)) for photo in photos]).to(self._execution_device)
        reference = self.encode_pixels(pixels)
        condition = self.condition(pixels, reference, levels, num_frames)
        words, negative = self._words(texts, negatives, num_frames, max_sequence_length)
        shape = (len(reference), reference.shape[1], num_frames, *reference.shape[2:])
        latents = draw_noise(shape, generator, reference.device, latents)
        steps = self._default("num_inference_steps", num_inference_steps)
        times = set_timesteps(self.scheduler, steps, latents.device, timesteps, sigmas)
        steps = steps if timesteps is None and sigmas is None else len(times)
        if first or last:
            usual = share_of_steps(self.config.defaults, steps)
            count = usual if num_inversion_steps is None else num_inversion_steps
            latents = lean(latents, self.invert(reference, condition, num_frames, count), first, last)
        latents = latents * self.scheduler.init_noise_sigma
        dynamic = steps if self._default("use_dynamic_cfg", use_dynamic_cfg) else None
        end_step = partial(after_step, self, callback_on_step_end, seen)
        for count in range(self._free_init_num_iters if self.free_init_enabled else 1):
            if self.free_init_enabled:
                latents, times = self._restart(latents, count, steps, generator)
            told = {"latents": latents, "prompt_embeds": words, "negative_prompt_embeds": negative}
            step = Steps(self.scheduler, self._default("eta", eta), generator)
            latents = self._denoise(times, told, condition, step, end_step, dynamic)
        frames = latents
        if output_type != "latent":
            video = self.decode_latents(latents, self._default("decode_chunk_size", decode_chunk_size))
            frames = self.video_processor.postprocess_video(video, output_type=output_type)
        self.maybe_free_model_hooks()
        return LivePhotoPipelineOutput(frames=frames) if return_dict else (frames,)

    def condition(self, pixels, reference, levels, num_frames):
        """What the U-Net is told: maps [batch, c, frames, h, w] of photo and level, and content tokens if any."""
        batch, _, h, w = reference.shape
        ramp = torch.linspace(0.0, 1.0, num_frames, device=reference.device)
        height = self.config.level_scale * torch.tensor(levels, dtype=torch.float32, device=reference.device)
        maps = {
            "reference": reference[:, :, None].expand(-1, -1, num_frames, -1, -1),
            "frame": ramp[None, None, :, None, None].expand(batch, 1, -1, h, w),
            "level": height[:, None, None, None, None].expand(-1, 1, num_frames, h, w),
        }
        content = None if self.content_layers is None else self.encode_content(pixels)
        return [maps[name] for name in self.config.channels.split(",") if name], content

    @torch.no_grad()
    def encode_prompt(
        self, prompt, device=None, num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=None,
        prompt_embeds=None, negative_prompt_embeds=None, lora_scale=None, clip_skip=None, max_sequence_length=None,
    ):  # fmt: skip
        """(embeddings of the texts, those of the negative ones): each [batch, length, features], or None.

        They are those of the text encoder; `weigh` makes of them what the U-Net reads on each frame.
        """
        read = partial(self._read, device or self._execution_device, lora_scale, clip_skip, max_sequence_length)
        if prompt_embeds is None:
            prompt_embeds = read([prompt] if isinstance(prompt, str) else prompt)
        if negative_prompt_embeds is None and do_classifier_free_guidance:
            negatives = [negative_prompt or ""] if isinstance(negative_prompt or "", str) else negative_prompt
            negative_prompt_embeds = read(negatives * len(prompt_embeds) if len(negatives) == 1 else negatives)
        both = (prompt_embeds, negative_prompt_embeds)
        return tuple(None if each is None else repeat_rows(each, num_images_per_prompt) for each in both)

    def weigh(self, text, num_frames):
        """Embeddings for every frame: [batch, frames, length, features]."""
        if self.text_reweighting is None:
            return text[:, None].expand(-1, num_frames, -1, -1)
        return self.text_reweighting(text.to(self._execution_device, self.text_reweighting.dtype))

    def _read(self, device, lora_scale, clip_skip, max_sequence_length, prompts):
        """The text encoder's last hidden state, or an earlier one with the last norm."""
        most = self.text_encoder.config.max_position_embeddings
        length = min(max_sequence_length or most, most)
        if hasattr(self.tokenizer, "added_tokens_encoder"):  # of a textual inversion
            prompts = self.maybe_convert_prompt(list(prompts), self.tokenizer)
        warn_of_cut_prompts(self.tokenizer, prompts, length)
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids.to(device)
        if tokens.shape[1] < most:
            tokens = pad(tokens, (0, most - tokens.shape[1]), value=self.tokenizer.pad_token_id)
        lora = {} if lora_scale is None or not USE_PEFT_BACKEND else {"weight": lora_scale}
        if lora:
            scale_lora_layers(self.text_encoder, **lora)
        try:
            if not clip_skip:
                return self.text_encoder(tokens).last_hidden_state
            states = self.text_encoder(tokens, output_hidden_states=True).hidden_states
        finally:
            if lora:
                unscale_lora_layers(self.text_encoder, **lora)
        if not 0 < clip_skip < len(states) - 1:
            raise ValueError(f"clip_skip is from 0 to {len(states) - 2} with this text encoder; got {clip_skip}.")
        return getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm(states[-(clip_skip + 1)])

    def encode_content(self, pixels):
        """DINOv2's patch tokens of the photos, through the linear layer that was trained with the U-Net."""
        side = self.content_layers.config.image_size
        shown = interpolate(pixels, (side, side), mode="bicubic", antialias=True) * 0.5 + 0.5
        mean, std = (torch.tensor(each, device=shown.device)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
        hidden = self.content_encoder(((shown - mean) / std).to(self.content_encoder.dtype)).last_hidden_state
        first_patch = 1 + getattr(self.content_encoder.config, "num_register_tokens", 0)
        return self.content_layers(hidden[:, first_patch:].to(self.content_layers.dtype))

    def encode_pixels(self, pixels):
        """Scaled latents of photos in [-1, 1], in float32."""
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def decode_latents(self, latents, chunk=0):
        """Pixels of scaled latents: [batch, 3, frames, height, width], about in [-1, 1]."""
        images = (latents / self.vae.config.scaling_factor).transpose(1, 2).flatten(0, 1).to(self.vae.dtype)
        decoded = [self.vae.decode(part).sample for part in images.split(chunk or len(images))]
        return torch.cat(decoded).float().unflatten(0, (len(latents), -1)).transpose(1, 2)

    def predict(self, latents, t, words, condition):
        """What the U-Net says in float32, with each of the batches of words that stand one after the other."""
        maps, content = condition
        copies, dtype = len(words) // len(latents), self.unet.dtype
        sample = torch.cat([latents, *maps], dim=1).to(dtype).repeat(copies, 1, 1, 1, 1)
        told = {"encoder_hidden_states": words.to(dtype).flatten(0, 1)}
        if content is not None:
            self.content_layers.attach(self.unet)
            told["cross_attention_kwargs"] = {"gligen": {"objs": content.to(dtype).repeat(copies, 1, 1)}}
        if self.attention_kwargs:
            told["cross_attention_kwargs"] = {**self.attention_kwargs, **told.get("cross_attention_kwargs", {})}
        return self.unet(sample, t, **told).sample.float()

    def invert(self, reference, condition, num_frames, steps):
        """DDIM inversion of the photo, still for all frames, with the empty text and no guidance.

        Each step from one noise level up to the next is made with the prediction at the upper time.
        """
        config, alphas = self.scheduler.config, self.scheduler.alphas_cumprod.double().tolist()
        spacing = config.get("timestep_spacing", "leading")
        times = spaced(config.num_train_timesteps, steps, spacing, config.get("steps_offset", 0))
        empty, _ = self.encode_prompt("", do_classifier_free_guidance=False, clip_skip=self.clip_skip)
        words = self.weigh(empty, num_frames).expand(len(reference), -1, -1, -1)
        z = reference[:, :, None].expand(-1, -1, num_frames, -1, -1)
        for t in reversed(times):
            here, there = alphas[max(t - config.num_train_timesteps // steps, 0)], alphas[t]
            said = self.predict(z, torch.tensor(t, device=z.device), words, condition)
            z0, eps = split(config.prediction_type, here**0.5, (1 - here) ** 0.5, z, said)
            z = there**0.5 * z0 + (1 - there) ** 0.5 * eps
        return z

    def _words(self, texts, negatives, num_frames, max_sequence_length):
        """(what the U-Net reads, the negative texts first if they count; what it reads of those alone, or None)."""
        stacked = [torch.stack(rows) if torch.is_tensor(rows[0]) else None for rows in (texts, negatives)]
        text, negative = self.encode_prompt(
            texts,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            negative_prompt=negatives,
            prompt_embeds=stacked[0],
            negative_prompt_embeds=stacked[1],
            lora_scale=(self.attention_kwargs or {}).get("scale"),
            clip_skip=self.clip_skip,
            max_sequence_length=max_sequence_length,
        )
        if not self.do_classifier_free_guidance:
            return self.weigh(text, num_frames), None
        if text.shape != negative.shape:
            raise ValueError(
                "Embeddings of prompts and negative prompts have one length and width; got "
                f"{list(text.shape)} and {list(negative.shape)}."
            )
        weighed = [self.weigh(each, num_frames) for each in (negative, text)]
        return torch.cat(weighed), weighed[0]

    def _denoise(self, times, told, condition, step, end_step, dynamic):
        """Latents after all steps.

        told: latents, prompt_embeds and negative_prompt_embeds; a callback may change the first two.
        dynamic: the number of steps that CogVideoX's guidance counts; None where the guidance is constant.
        """
        self._num_timesteps, most = len(times), self.guidance_scale
        with self.progress_bar(total=len(times)) as bar:
            for i, t in enumerate(times):
                if self.interrupt:
                    continue
                self._current_timestep = t
                if dynamic:
                    share = (dynamic - float(t)) / dynamic
                    self._guidance_scale = 1 + most * (1 - math.cos(math.pi * share**5.0)) / 2
                said = self._guided(told["latents"], t, told["prompt_embeds"], condition)
                told["latents"] = step(said, t, told["latents"])
                told = end_step(i, t, told)
                bar.update()
        self._current_timestep = None
        return told["latents"]

    def _guided(self, latents, t, words, condition):
        """The prediction, guided where the words hold negative ones, too, and the guidance is on."""
        words = words if self.do_classifier_free_guidance else words[-len(latents) :]
        said = self.predict(self.scheduler.scale_model_input(latents, t), t, words, condition)
        if len(words) == len(latents):
            return said
        null, told = said.chunk(2)
        return null + self.guidance_scale * (told - null)

    def _restart(self, latents, count, steps, generator):
        """(latents, times) of a round of FreeInit."""
        if self.scheduler.init_noise_sigma != 1:
            raise ValueError(
                f"FreeInit needs latents of variance 1, which a {type(self.scheduler).__name__} has not; call "
                "pipe.disable_free_init() or take DDIMScheduler."
            )
        return self._apply_free_init(latents, count, steps, latents.device, latents.dtype, generator)

    def _default(self, name, value):
        return self.config.defaults.get(name) if value is None else value

    def _checked_frames(self, num_frames):
        trained = self.config.clip["num_frames"]
        if num_frames not in (None, trained):
            raise ValueError(f"This model makes clips of {trained} frames; num_frames={num_frames} was asked for.")
        return trained

    def _checked_size(self, height, width):
        height, width = height or self.config.clip["height"], width or self.config.clip["width"]
        step = self.config.clip["vae_scale_factor"] * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % step or width % step or min(height, width) < step:
            raise ValueError(f"Height and width must be multiples of {step} px; got {height} x {width}.")
        return height, width

    def _checked_prior(self, prior_strength):
        both = self._default("prior_strength", prior_strength)
        both = [both, both] if isinstance(both, (int, float)) else list(both)
        if len(both) != 2 or not all(0 <= each <= 1 for each in both):
            raise ValueError(
                "prior_strength is a number from 0 to 1, or two: of the first and of the last frame; got "
                f"{prior_strength!r}."
            )
        return both

    def _checked_levels(self, motion_level):
        listed = motion_level.tolist() if hasattr(motion_level, "tolist") else motion_level
        levels = list(listed) if isinstance(listed, (list, tuple)) else [listed]
        if any(level not in range(1, LEVELS + 1) for level in levels):
            raise ValueError(f"motion_level is a whole number from 1 to {LEVELS}; got {motion_level!r}.")
        if "level" not in self.config.channels.split(",") and any(level != 5 for level in levels):
            raise ValueError("This model was trained without motion levels; leave motion_level out.")
        return levels
