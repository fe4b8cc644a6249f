"""CogVideoX's image-to-video pipeline with dials for motion (MotionStone, arXiv:2412.05848).

This file ships inside exported folders. It needs PyTorch, diffusers and transformers.
"""

from contextlib import contextmanager

import torch
from diffusers import CogVideoXImageToVideoPipeline

from jaxmotion.weights.pytorch.exported_pipeline import (
    ExportedPipeline,
    batched,
    callback_inputs,
    check_call,
    check_noise,
    check_schedule,
    one_of,
    refuse,
    repeat_rows,
    text_rows,
)
from jaxmotion.weights.pytorch.photos import as_pictures


class MotionStonePipeline(ExportedPipeline, CogVideoXImageToVideoPipeline):
    """As its parent, with a score from 1 to 10 for each dial, and guidance on them.

    Arguments of a call are those of the parent and of `AnimateDiffPipeline`, one for each dial (such as object=5.0,
    camera=5.0), and motion_guidance. What is left out of height, width, num_frames and max_sequence_length is as the
    model was trained.

    image: PIL, an array [H, W, 3], a tensor [3, H, W], or a list or batch of them; resized as the parent does it.
    prompt, negative_prompt, dials: one value, or one for each image.
    timesteps, sigmas: a schedule of one's own, if the scheduler takes it.
    motion_guidance: guidance scales by dial, such as {"camera": 2.0}. A dial with one is left out of the base and comes
        in with its scale, after the text; each takes one more evaluation of the transformer in every step. A dial
        without one is in all of them.
    decode_chunk_size: has no effect: the autoencoder decodes 8 frames together, and with another number its results
        would be others. `enable_vae_tiling()` saves memory.
    null_text: what guidance takes for no text where there is no negative prompt: features of the `empty_caption`, or
        `zeros`.
    """

    model_cpu_offload_seq = "motion_scores->text_encoder->transformer->vae"

    def __init__(self, tokenizer, text_encoder, vae, transformer, scheduler, motion_scores, null_text="empty_caption"):
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)
        self.register_modules(motion_scores=motion_scores)
        self.register_to_config(null_text=null_text)

    @torch.no_grad()
    def __call__(
        self, image, prompt=None, negative_prompt=None, height=None, width=None, num_frames=None,
        num_inference_steps=50, timesteps=None, guidance_scale=6, use_dynamic_cfg=False, num_videos_per_prompt=1,
        eta=0.0, generator=None, latents=None, prompt_embeds=None, negative_prompt_embeds=None, output_type="pil",
        return_dict=True, attention_kwargs=None, callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",), max_sequence_length=None, motion_guidance=None, sigmas=None,
        cross_attention_kwargs=None, clip_skip=None, decode_chunk_size=None, ip_adapter_image=None,
        ip_adapter_image_embeds=None, **dials,
    ):  # fmt: skip
        """Animates one photo or several; the arguments are described with the class."""
        check_call(self, output_type, num_inference_steps, num_videos_per_prompt)
        check_schedule(self.scheduler, timesteps, sigmas)
        refuse("IP-Adapter", ip_adapter_image=ip_adapter_image, ip_adapter_image_embeds=ip_adapter_image_embeds)
        refuse("CLIP whose last layers could be left out", clip_skip=clip_skip or None)
        seen = callback_inputs(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        attention = one_of(cross_attention_kwargs=cross_attention_kwargs, attention_kwargs=attention_kwargs)
        self.begin_call(guidance_scale, attention, None)
        asked, guided = self._checked_dials(dials), self._checked_guidance(motion_guidance, use_dynamic_cfg)
        height, width, num_frames = self._checked_size(height, width, num_frames)
        texts = text_rows("prompt", prompt, prompt_embeds)
        negatives = text_rows("negative_prompt", negative_prompt, negative_prompt_embeds)
        if prompt is None and prompt_embeds is None:
            raise ValueError("Give a prompt or prompt_embeds; the empty prompt is prompt=''.")
        columns = batched(
            "images, prompts, negative prompts and scores", _rows(image), texts, negatives, *asked.values()
        )
        images, texts, negatives, *scores = (repeat_rows(column, num_videos_per_prompt) for column in columns)
        hooks = self._hooks(dict(zip(asked, scores, strict=True)), guided)
        try:
            text, negative = self._embeddings(texts, negatives, max_sequence_length)
            shape = self._latent_shape(len(images), height, width, num_frames)
            latents = check_noise(shape, generator, self._execution_device, latents)
            with _schedule(self.scheduler, sigmas) as count:
                return super().__call__(
                    torch.stack(images) if torch.is_tensor(images[0]) else images,
                    prompt_embeds=text,
                    negative_prompt_embeds=negative,
                    height=height,
                    width=width,
                    num_frames=num_frames,
                    num_inference_steps=count or num_inference_steps,
                    timesteps=timesteps,
                    guidance_scale=guidance_scale,
                    use_dynamic_cfg=use_dynamic_cfg,
                    eta=eta,
                    generator=generator,
                    latents=None if latents is None else latents.to(text.dtype),
                    output_type=output_type,
                    return_dict=return_dict,
                    attention_kwargs=attention,
                    callback_on_step_end=callback_on_step_end,
                    callback_on_step_end_tensor_inputs=seen,
                )
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def encode_prompt(
        self, prompt, negative_prompt=None, do_classifier_free_guidance=True, *args, max_sequence_length=None, **kwargs
    ):
        """(embeddings, negative embeddings) as the parent's, of the length and with the null that the model has."""
        length = max_sequence_length or self.transformer.config.max_text_seq_length
        said = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt]
        given = any(said) or kwargs.get("negative_prompt_embeds") is not None
        zeros = self.config.null_text == "zeros" and do_classifier_free_guidance and not given
        encoded = do_classifier_free_guidance and not zeros
        text, null = super().encode_prompt(
            prompt, negative_prompt, encoded, *args, max_sequence_length=length, **kwargs
        )
        return text, torch.zeros_like(text) if zeros else null

    def enable_free_init(self, *args, **kwargs):
        """Refused: CogVideoX's pipelines have no loop of rounds."""
        raise NotImplementedError("CogVideoX's pipelines have no FreeInit; call this one without it.")

    def _hooks(self, asked, guided):
        """Hooks that add the scores to the time embedding, and guide them."""
        now = {**asked, **dict.fromkeys(guided)}
        vectors = [self.motion_scores(now)]
        for name in guided:
            now = {**now, name: asked[name]}
            vectors.append(self.motion_scores(now))
        adder = _Adder(vectors[0])
        hooks = [self.transformer.time_embedding.register_forward_hook(adder)]
        if guided:
            guide = _Guide(self, adder, vectors, list(guided.values()))
            hooks.append(self.transformer.register_forward_hook(guide, with_kwargs=True))
        return hooks

    def _embeddings(self, texts, negatives, max_sequence_length):
        """(embeddings of the texts, those of the negative ones or None)."""
        trained, learned = self.transformer.config.max_text_seq_length, self._learned_places
        length = min(max_sequence_length or trained, trained)
        stacked = [torch.stack(rows) if torch.is_tensor(rows[0]) else None for rows in (texts, negatives)]
        text, negative = self.encode_prompt(
            prompt=texts if stacked[0] is None else None,
            negative_prompt=negatives if stacked[1] is None else None,
            do_classifier_free_guidance=self.do_classifier_free_guidance,
            prompt_embeds=stacked[0],
            negative_prompt_embeds=stacked[1],
            max_sequence_length=length,
        )
        if learned and text.shape[1] != trained:
            raise ValueError(f"This model reads texts of {trained} tokens, filled up or cut; got {text.shape[1]}.")
        text = text.to(self._execution_device, self.transformer.dtype)
        if not self.do_classifier_free_guidance:
            return text, None
        if text.shape != negative.shape:
            raise ValueError(
                "Embeddings of prompts and negative prompts have one length and width; got "
                f"{list(text.shape)} and {list(negative.shape)}."
            )
        return text, negative.to(text)

    @property
    def _learned_places(self):
        return self.transformer.config.use_learned_positional_embeddings

    def _latent_shape(self, batch, height, width, num_frames):
        config, frames = self.transformer.config, (num_frames - 1) // self.vae_scale_factor_temporal + 1
        frames += -frames % (config.patch_size_t or 1)
        step = self.vae_scale_factor_spatial
        return batch, frames, config.in_channels // 2, height // step, width // step

    def _checked_size(self, height, width, num_frames):
        config, scale, time = self.transformer.config, self.vae_scale_factor_spatial, self.vae_scale_factor_temporal
        trained = config.sample_height * scale, config.sample_width * scale
        height, width, num_frames = height or trained[0], width or trained[1], num_frames or config.sample_frames
        step = scale * config.patch_size
        if height % step or width % step or min(height, width) < step:
            raise ValueError(f"Height and width must be multiples of {step} px; got {height} x {width}.")
        if self._learned_places and (height, width) != trained:
            raise ValueError(f"This model makes clips of {trained[0]} x {trained[1]} px only; got {height} x {width}.")
        if config.patch_size_t and (height > trained[0] or width > trained[1]):  # its places are numbered so far
            raise ValueError(
                f"This model makes clips of at most {trained[0]} x {trained[1]} px; got {height} x {width}."
            )
        if num_frames < 1 or (num_frames - 1) % time:
            near = max(num_frames - 1, 0) // time * time + 1
            raise ValueError(f"num_frames is {time} n + 1, such as {near} or {near + time}; got {num_frames}.")
        return height, width, num_frames

    def _checked_dials(self, dials):
        known = self.motion_scores.config["scores"]
        for name in dials.keys() - known.keys():
            raise TypeError(f"There is no argument {name!r}; the dials are {', '.join(known)}.")
        asked = {}
        for name, score in known.items():
            value = dials.get(name)
            value = score["default"] if value is None else value
            asked[name] = value.tolist() if hasattr(value, "tolist") else value
            for each in asked[name] if isinstance(asked[name], (list, tuple)) else [asked[name]]:
                if not 1 <= each <= 10:
                    raise ValueError(f"The {name} score is from 1 to 10; got {each}.")
        return asked

    def _checked_guidance(self, motion_guidance, use_dynamic_cfg):
        guided = dict(motion_guidance or {})
        known = self.motion_scores.config["scores"]
        unknown = set(guided) - set(known)
        if unknown:
            raise ValueError(f"There is no dial {sorted(unknown)[0]}; there are {', '.join(known)}.")
        if guided and use_dynamic_cfg:
            raise ValueError("motion_guidance needs a constant guidance_scale; leave use_dynamic_cfg out.")
        return guided


class _Adder:
    """A hook that adds vectors, one for each clip, to what the time embedding says."""

    def __init__(self, vector):
        self.vector = vector

    def __call__(self, module, inputs, output):
        return output + self.vector.to(output).repeat(len(output) // len(self.vector), 1)


class _Guide:
    """A hook after the transformer that adds what guidance on the scores adds.

    The pipeline combines u + g (c - u) from the two halves of the batch. What is added to both counts once.
    """

    def __init__(self, pipe, adder, vectors, scales):
        self.pipe, self.adder, self.vectors, self.scales = pipe, adder, vectors, scales

    def __call__(self, module, args, kwargs, output):
        outputs = [output[0]]
        for vector in self.vectors[1:]:
            self.adder.vector = vector
            outputs.append(module.forward(*args, **kwargs)[0])  # without this hook
        self.adder.vector = self.vectors[0]
        steps = zip(self.scales, outputs, outputs[1:], strict=False)
        total = sum(scale * (after - before) for scale, before, after in steps)
        count = max(map(len, self.vectors))
        return (outputs[0] + total[-count:].repeat(len(total) // count, 1, 1, 1, 1),)


def _rows(image):
    """Pictures in a list. Tensors of floats stay as they are; all others become PIL."""
    rows = list(image) if isinstance(image, (list, tuple)) else [image]
    if not all(torch.is_tensor(each) and each.is_floating_point() for each in rows):
        return as_pictures(rows)
    return [picture for each in rows for picture in (each if each.ndim == 4 else [each])]


@contextmanager
def _schedule(scheduler, sigmas):
    """The parent hands no noise levels on to the scheduler, so here it is told for the time of a call.

    Gives the number of steps, or None without noise levels.
    """
    if sigmas is None:
        yield None
        return
    set_timesteps = scheduler.set_timesteps
    set_timesteps(sigmas=sigmas)
    scheduler.set_timesteps = lambda count, device=None: set_timesteps(sigmas=sigmas, device=device)
    try:
        yield len(scheduler.timesteps)
    finally:
        del scheduler.set_timesteps
