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

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

LEVELS = 10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class LivePhotoPipelineOutput(BaseOutput):
    """`frames`: a list of lists of PIL images, an array [batch, frames, height, width, 3], or a tensor."""

    frames: Any


class LivePhotoPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Image-to-video with the amount of motion that was asked for.

    text_reweighting, content_encoder, content_layers: there unless the model was trained without them.
    clip: what the model was trained on: num_frames, height, width, and vae_scale_factor (pixels per latent).
    channels: what stands beside the noisy latents, in this order: `reference` (the photo's latent), `frame` (a map that
        runs from 0 on the first frame to 1 on the last), `level` (a map of the motion level times `level_scale`).
    defaults: values of those arguments of a call that are left out.
    """

    model_cpu_offload_seq = "text_encoder->text_reweighting->content_encoder->unet->vae"
    _exclude_from_cpu_offload = ("content_layers",)  # they run inside the U-Net
    _optional_components = ["text_reweighting", "content_encoder", "content_layers"]  # noqa: RUF012
    _callback_tensor_inputs = ("latents",)

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
        self.register_to_config(clip=clip, channels=channels, level_scale=level_scale, defaults=defaults)
        self.video_processor = VideoProcessor(vae_scale_factor=clip["vae_scale_factor"])

    @torch.no_grad()
    def __call__(
        self,
        image,
        prompt="",
        motion_level=5,
        negative_prompt="",
        num_frames=None,
        height=None,
        width=None,
        num_inference_steps=None,
        guidance_scale=None,
        eta=None,
        prior_strength=None,
        num_inversion_steps=None,
        generator=None,
        latents=None,
        output_type="pil",
        return_dict=True,
        decode_chunk_size=None,
        callback_on_step_end=None,
    ):
        """Animates one photo or several.

        Args:
            image: the photo, of any size: PIL, an array [H, W, 3] (uint8, or floats in [0, 1]), a tensor [3, H, W] in
                [0, 1], or a list or batch of them. Its largest centred part with the clip's shape is used.
            prompt: what moves, and how; or one for each photo.
            motion_level: a whole number from 1 (nearly still) to 10; or one for each photo.
            negative_prompt: what guidance leads away from; or one for each photo.
            num_frames: of the clip; only the number that the model was trained on.
            guidance_scale: classifier-free guidance on the text; 1 is the plain conditional prediction.
            eta: how much noise each step adds, 0 to 1, if the scheduler knows it.
            prior_strength: how far the starting noise leans towards the inverted photo, on the first and on the last
                frame, each in [0, 1]; (0, 0) switches it off.
            num_inversion_steps: steps of that inversion.
            latents: the Gaussian noise to start from, [batch, channels, frames, height, width].
            output_type: "pil", "np", "pt" or "latent".
            decode_chunk_size: how many frames are decoded together; 0 is all of them.
            callback_on_step_end: called with the pipeline, the number of the step, its time and {"latents": latents};
                what it returns under "latents" takes their place.
        """
        device, clip = self._execution_device, self.config.clip
        num_inference_steps = self._default("num_inference_steps", num_inference_steps)
        guidance_scale = self._default("guidance_scale", guidance_scale)
        num_frames = self._checked_frames(num_frames)
        height, width = self._checked_size(height or clip["height"], width or clip["width"])
        pictures, prompts, negatives, levels = _batched(
            as_pictures(image), prompt, negative_prompt, self._checked_levels(motion_level)
        )
        pixels = torch.stack([as_pixels(fit(picture, height, width)) for picture in pictures]).to(device)
        reference = self.encode_pixels(pixels)
        condition = self.condition(pixels, reference, levels, num_frames)
        words = self.encode_prompt(prompts, num_frames)
        if guidance_scale != 1:
            words = torch.cat([self.encode_prompt(negatives, num_frames), words])

        shape = (len(reference), reference.shape[1], num_frames, *reference.shape[2:])
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"The latents are {list(latents.shape)}; this call needs {list(shape)}.")
        first, last = self._default("prior_strength", prior_strength)
        latents = latents.to(device, torch.float32)
        if first or last:
            num_inversion_steps = self._default("num_inversion_steps", num_inversion_steps)
            inverted = self.invert(reference, condition, num_frames, num_inversion_steps)
            latents = lean(latents, inverted, first, last)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        extra = {"eta": self._default("eta", eta), "generator": generator}
        known = inspect.signature(self.scheduler.step).parameters
        extra = {name: value for name, value in extra.items() if name in known}
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            said = self.predict(self.scheduler.scale_model_input(latents, t), t, words, condition)
            if guidance_scale != 1:
                null, told = said.chunk(2)
                said = null + guidance_scale * (told - null)
            latents = self.scheduler.step(said, t, latents, **extra).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, i, t, {"latents": latents}).get("latents", latents)

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

    def encode_prompt(self, prompts, num_frames):
        """Embeddings of the texts, for every frame: [batch, frames, length, features]."""
        length = self.text_encoder.config.max_position_embeddings
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        text = self.text_encoder(tokens.to(self._execution_device)).last_hidden_state
        if self.text_reweighting is None:
            return text[:, None].expand(-1, num_frames, -1, -1)
        return self.text_reweighting(text)

    def encode_content(self, pixels):
        """DINOv2's patch tokens of the photos, through the linear layer that was trained with the U-Net."""
        side = self.content_layers.config.image_size
        shown = interpolate(pixels, (side, side), mode="bicubic", antialias=True) * 0.5 + 0.5
        mean, std = (torch.tensor(each, device=shown.device)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
        hidden = self.content_encoder(((shown - mean) / std).to(self.content_encoder.dtype)).last_hidden_state
        first_patch = 1 + getattr(self.content_encoder.config, "num_register_tokens", 0)
        return self.content_layers(hidden[:, first_patch:])

    def encode_pixels(self, pixels):
        """Scaled latents of photos in [-1, 1], in float32."""
        latents = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def decode_latents(self, latents, chunk):
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
            tokens = content.to(dtype).repeat(copies, 1, 1)
            told["cross_attention_kwargs"] = {"gligen": {"objs": tokens}}
        return self.unet(sample, t, **told).sample.float()

    def invert(self, reference, condition, num_frames, steps):
        """DDIM inversion of the photo, still for all frames, with the empty text and no guidance.

        Each step from one noise level up to the next is made with the prediction at the upper time.
        """
        config, alphas = self.scheduler.config, self.scheduler.alphas_cumprod.double().tolist()
        times = spaced(config.num_train_timesteps, steps, config.timestep_spacing, config.get("steps_offset", 0))
        words = self.encode_prompt([""] * len(reference), num_frames)
        z = reference[:, :, None].expand(-1, -1, num_frames, -1, -1)
        for t in reversed(times):
            here, there = alphas[max(t - config.num_train_timesteps // steps, 0)], alphas[t]
            said = self.predict(z, torch.tensor(t, device=z.device), words, condition)
            z0, eps = split(config.prediction_type, here**0.5, (1 - here) ** 0.5, z, said)
            z = there**0.5 * z0 + (1 - there) ** 0.5 * eps
        return z

    def _default(self, name, value):
        return self.config.defaults[name] if value is None else value

    def _checked_frames(self, num_frames):
        trained = self.config.clip["num_frames"]
        if num_frames not in (None, trained):
            raise ValueError(f"This model makes clips of {trained} frames; num_frames={num_frames} was asked for.")
        return trained

    def _checked_size(self, height, width):
        step = self.config.clip["vae_scale_factor"] * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % step or width % step:
            raise ValueError(f"Height and width must be multiples of {step} px; got {height} x {width}.")
        return height, width

    def _checked_levels(self, motion_level):
        levels = list(motion_level) if isinstance(motion_level, (list, tuple)) else [motion_level]
        if any(level not in range(1, LEVELS + 1) for level in levels):
            raise ValueError(f"motion_level is a whole number from 1 to {LEVELS}; got {motion_level!r}.")
        if "level" not in self.config.channels.split(",") and any(level != 5 for level in levels):
            raise ValueError("This model was trained without motion levels; leave motion_level out.")
        return levels


def lean(noise, inverted, first, last):
    """alpha inverted + (1 - alpha) noise, alpha linear over the frames (arXiv:2312.02928, Eq. 3)."""
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise ValueError(f"Prior strengths lie in [0, 1]; got {first} and {last}.")
    alpha = torch.linspace(first, last, noise.shape[2], device=noise.device)[:, None, None]
    return alpha * inverted + (1 - alpha) * noise


def split(prediction_type, signal, noise, z, said):
    """(z_0, eps) with z = signal * z_0 + noise * eps, from what the U-Net says."""
    if prediction_type == "epsilon":
        return (z - noise * said) / signal, said
    if prediction_type == "sample":
        return said, (z - signal * said) / noise
    return signal * z - noise * said, signal * said + noise * z


def spaced(train_steps, steps, spacing, offset):
    """The times that a scheduler with this `timestep_spacing` visits, falling."""
    if not 1 <= steps <= train_steps:
        raise ValueError(f"num_inversion_steps must be from 1 to {train_steps}; got {steps}.")
    if spacing == "leading":
        times = np.arange(steps)[::-1] * (train_steps // steps) + offset
    elif spacing == "trailing":
        times = np.round(train_steps - np.arange(steps) * (train_steps / steps)) - 1
    else:
        times = np.linspace(0, train_steps - 1, steps).round()[::-1]
    return [int(t) for t in times]


def as_pictures(image):
    """The photos as RGB pictures, whatever they come as."""
    if isinstance(image, (list, tuple)):
        return [picture for each in image for picture in as_pictures(each)]
    if isinstance(image, Image.Image):
        return [rgb(image)]
    if torch.is_tensor(image):
        image = image.detach().cpu().float().movedim(-3, -1).numpy()
    if not isinstance(image, np.ndarray) or image.ndim not in (3, 4) or image.shape[-1] != 3:
        came = getattr(image, "shape", type(image).__name__)
        raise ValueError(f"The image must be PIL, an array [H, W, 3] or a tensor [3, H, W], or a batch; got {came}.")
    if image.ndim == 4:
        return [picture for each in image for picture in as_pictures(each)]
    if image.dtype != np.uint8:
        if image.min() < 0 or image.max() > 1:
            raise ValueError(f"Images of floats lie in [0, 1]; got {image.min():.3g} to {image.max():.3g}.")
        image = np.round(image * 255).astype(np.uint8)
    return [Image.fromarray(image)]


def rgb(picture):
    """A picture of any mode as RGB: turned as its EXIF says, transparent parts white, 16 bit scaled to 8."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(np.repeat(_eight_bit(np.asarray(picture))[..., None], 3, axis=-1))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return picture.convert("RGB")


def fit(picture, height, width):
    """The largest centred part of a picture with the wanted shape, resized (Lanczos)."""
    scale = min(picture.height / height, picture.width / width)
    top, left = (picture.height - scale * height) / 2, (picture.width - scale * width) / 2
    right, bottom = min(picture.width - left, picture.width), min(picture.height - top, picture.height)
    box = (max(left, 0.0), max(top, 0.0), right, bottom)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def as_pixels(picture):
    """An RGB picture as a tensor [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 127.5 - 1.0).movedim(-1, 0)


def _eight_bit(values):
    """Grey values of 16-bit, 32-bit and float pictures on 0..255.

    White is 65535 in 16 bits; in wider files the smallest of 1 (floats only), 255 and 65535 that holds all values, or
    else the largest value.
    """
    top = float(np.nanmax(values))
    whites = [65535.0] if values.dtype.itemsize == 2 else [255.0, 65535.0]
    if np.issubdtype(values.dtype, np.floating):
        whites.insert(0, 1.0)
    white = next((white for white in whites if top <= white), top)
    return np.round(np.nan_to_num(np.clip(values / white, 0.0, 1.0)) * 255.0).astype(np.uint8)


def _batched(pictures, *others):
    """Lists of one length; what there is one of serves all the others."""
    lists = [pictures, *(list(each) if isinstance(each, (list, tuple)) else [each] for each in others)]
    count = max(map(len, lists))
    if any(len(each) not in (1, count) for each in lists):
        raise ValueError(
            "Give as many photos as prompts, negative prompts and motion levels, or one of each; "
            f"got {', '.join(str(len(each)) for each in lists)}."
        )
    return [each * count if len(each) == 1 else each for each in lists]
