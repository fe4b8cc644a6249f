"""What exported pipelines of every system share: saving with their code, checks of a call, and schedules."""

import inspect
import json
import shutil
from pathlib import Path

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

LOG = logging.get_logger(f"diffusers.{__name__}")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class ExportedPipeline:
    """The first base of a pipeline that ships, with the classes of some components, as files in its folder."""

    def save_pretrained(
        self, save_directory, safe_serialization=True, variant=None, max_shard_size=None, push_to_hub=False, **kwargs
    ):
        """Saves the pipeline as `DiffusionPipeline` does, and the files of those classes that diffusers has not.

        The folder loads with `from_pretrained(folder, trust_remote_code=True)`, as the exported one does.
        """
        folder, shipped = Path(save_directory), self._shipped_components()
        how = {"safe_serialization": safe_serialization, "variant": variant}
        how |= {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        entries, optional = {name: self.config[name] for name in shipped}, self._optional_components
        try:  # components that are absent and optional are left out by the parent
            self._optional_components = [*optional, *shipped]
            self.register_to_config(**dict.fromkeys(shipped, (None, None)))
            super().save_pretrained(folder, **how)
        finally:
            self.register_to_config(**entries)
            self._optional_components = optional
        index = json.loads((folder / self.config_name).read_text())
        index["_class_name"] = _copy_code(type(self), folder)
        for name, part in shipped.items():
            part.save_pretrained(folder / name, **how)
            index[name] = _copy_code(type(part), folder / name)
        (folder / self.config_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), variant=variant, **kwargs)

    @classmethod
    def _get_signature_types(cls):
        """Types of components as `from_pipe` asks for them; of one that ships with the folder any is right."""
        types = super()._get_signature_types()
        return {name: _Anything(kinds) if inspect.Signature.empty in kinds else kinds for name, kinds in types.items()}

    def _shipped_components(self):
        """Components by name whose class is in a file of the exported folder."""
        parts = {name: getattr(part, "_orig_mod", part) for name, part in self.components.items()}
        stock = ("diffusers", "transformers", "builtins")
        return {name: part for name, part in parts.items() if type(part).__module__.split(".")[0] not in stock}

    _guidance_scale, _attention_kwargs, _clip_skip = 1.0, None, None
    _num_timesteps, _current_timestep, _interrupt = 0, None, False

    def begin_call(self, guidance_scale, attention_kwargs, clip_skip):
        """Sets what the properties say during a call."""
        self._guidance_scale, self._attention_kwargs, self._clip_skip = guidance_scale, attention_kwargs, clip_skip
        self._current_timestep, self._interrupt = None, False

    @property
    def guidance_scale(self):
        """Guidance on the text."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self):
        """Whether the text is guided: with a guidance scale above 1."""
        return self._guidance_scale > 1

    @property
    def attention_kwargs(self):
        """What attention layers are told; `scale` is that of a LoRA."""
        return self._attention_kwargs

    @property
    def cross_attention_kwargs(self):
        """The attention_kwargs, by their older name."""
        return self._attention_kwargs

    @property
    def clip_skip(self):
        """Layers of the text encoder that are left out at its end."""
        return self._clip_skip

    @property
    def num_timesteps(self):
        """Steps of the call."""
        return self._num_timesteps

    @property
    def current_timestep(self):
        """Time of the step that runs; None between calls."""
        return self._current_timestep

    @property
    def interrupt(self):
        """Whether the steps that are left are skipped: a callback sets `pipe._interrupt = True`."""
        return self._interrupt

    def enable_vae_slicing(self):
        """Decodes one picture of a batch after the other, which takes less memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self):
        """Decodes batches together again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self):
        """Encodes and decodes in tiles, which takes less memory."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self):
        """Encodes and decodes whole pictures again."""
        self.vae.disable_tiling()

    def enable_free_noise(self, *args, **kwargs):
        """Refused: the model was trained on clips of one length."""
        raise NotImplementedError(
            f"FreeNoise makes clips longer than those of the training; a {type(self).__name__} makes that length only."
        )


class Steps:
    """Steps of a scheduler: (prediction, time, latents) -> latents."""

    def __init__(self, scheduler, eta, generator):
        self.scheduler, self.before, self.z0 = scheduler, None, None
        known = inspect.signature(scheduler.step).parameters
        given = {"eta": eta, "generator": generator}
        self.extra = {name: value for name, value in given.items() if name in known}
        self.remembers = "timestep_back" in known  # CogVideoXDPMScheduler

    def __call__(self, prediction, t, latents):
        rows = (prediction, self.z0, t, self.before, latents) if self.remembers else (prediction, t, latents)
        latents, *rest = self.scheduler.step(*rows, **self.extra, return_dict=False)
        self.before, self.z0 = t, rest[-1] if rest else None
        return latents


def check_call(pipe, output_type, num_inference_steps, num_videos_per_prompt):
    """Raises ValueError for values that no exported pipeline takes."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}; got {output_type!r}.")
    counts = {"num_inference_steps": num_inference_steps, "num_videos_per_prompt": num_videos_per_prompt}
    for name, value in counts.items():
        if value is not None and (value != int(value) or value < 1):
            raise ValueError(f"{name} is a whole number from 1; got {value!r}.")
    if not hasattr(pipe.scheduler, "alphas_cumprod") or not hasattr(pipe.scheduler, "init_noise_sigma"):
        raise ValueError(
            f"A {type(pipe.scheduler).__name__} is for other models: this one was trained on the noise levels of a "
            "DDPM. Take DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler or the like."
        )


def refuse(what, **given):
    """Raises ValueError if one of the arguments is given; `what` is what the pipeline has none of."""
    found = [name for name, value in given.items() if value is not None]
    if found:
        raise ValueError(f"This pipeline has no {what}; leave {' and '.join(found)} out.")


def text_rows(name, text, embeds):
    """One prompt or a list of them, or a list of embeddings [length, features].

    Raises:
        ValueError: both are given, or embeddings of another rank.
    """
    if text is not None and embeds is not None:
        raise ValueError(f"Give {name} or {name}_embeds, not both.")
    if embeds is None:
        return "" if text is None else text
    if embeds.ndim != 3:
        raise ValueError(f"{name}_embeds are [batch, length, features]; got {list(embeds.shape)}.")
    return list(embeds)


def callback_inputs(pipe, callback, names):
    """The names of the tensors that a callback wants to see.

    Raises:
        ValueError: the pipeline shows no tensor of that name.
    """
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    unknown = [name for name in names or () if name not in pipe._callback_tensor_inputs]
    if unknown:
        known = ", ".join(pipe._callback_tensor_inputs)
        raise ValueError(f"callback_on_step_end_tensor_inputs are of {known}; got {', '.join(unknown)}.")
    return list(names or ())


def check_schedule(scheduler, timesteps=None, sigmas=None):
    """Raises ValueError where times and noise levels are both given, or the scheduler takes none of its user's."""
    custom = {name: value for name, value in {"timesteps": timesteps, "sigmas": sigmas}.items() if value is not None}
    if len(custom) > 1:
        raise ValueError("Give timesteps or sigmas, not both.")
    for name in custom.keys() - inspect.signature(scheduler.set_timesteps).parameters.keys():
        raise ValueError(
            f"A {type(scheduler).__name__} takes no custom {name}; leave them out, or set another pipe.scheduler, "
            "such as EulerDiscreteScheduler.from_config(pipe.scheduler.config)."
        )
    return custom


def set_timesteps(scheduler, num_inference_steps, device, timesteps=None, sigmas=None):
    """The times of a number of steps, or of a schedule of one's own."""
    custom = check_schedule(scheduler, timesteps, sigmas)
    if custom:
        scheduler.set_timesteps(device=device, **custom)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps


def check_noise(shape, generator, device, latents=None):
    """The latents in float32, if there are any.

    Raises:
        ValueError: there are as many generators as other clips, or the latents have another shape.
    """
    if isinstance(generator, (list, tuple)) and len(generator) != shape[0]:
        raise ValueError(f"Give one generator, or {shape[0]}: one for each clip; got {len(generator)}.")
    if latents is None:
        return None
    if tuple(latents.shape) != tuple(shape):
        raise ValueError(f"The latents are {list(latents.shape)}; this call needs {list(shape)}.")
    return latents.to(device, torch.float32)


def draw_noise(shape, generator, device, latents=None):
    """Gaussian noise in float32, with one generator or one for each clip; or the latents that are given."""
    given = check_noise(shape, generator, device, latents)
    if given is not None:
        return given
    return randn_tensor(shape, generator=generator, device=torch.device(device), dtype=torch.float32)


def after_step(pipe, callback, names, i, t, told):
    """Tensors by name after a callback, which is shown those of the given names and may return others."""
    if callback is None:
        return told
    changed = callback(pipe, i, t, {name: told[name] for name in names}) or {}
    return {name: changed.get(name, tensor) for name, tensor in told.items()}


def warn_of_cut_prompts(tokenizer, prompts, length):
    """Says which words of a prompt are not read, if the tokenizer can tell."""
    for prompt in prompts if hasattr(tokenizer, "decode") else ():
        tokens = tokenizer(prompt, truncation=False).input_ids
        if len(tokens) > length:
            cut = tokenizer.decode(tokens[length - 1 : -1])
            LOG.warning("The prompt is longer than %d tokens; this is not read: %s", length, cut)


def one_of(**given):
    """The one value of several names for the same argument; None if none is given."""
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} are two names for one argument; give one of them.")
    return next(iter(found.values()), None)


def repeat_rows(rows, times):
    """Each row of a tensor, or each item of a list, several times in a row."""
    if torch.is_tensor(rows):
        return rows.repeat_interleave(times, dim=0)
    return [row for row in rows for _ in range(times)]


def batched(names, *columns):
    """Lists of one length; what there is one of serves all the others.

    Raises:
        ValueError: two have other lengths; `names` says what they are.
    """
    lists = [list(each) if isinstance(each, (list, tuple)) else [each] for each in columns]
    count = max(map(len, lists))
    if any(len(each) not in (1, count) for each in lists):
        raise ValueError(f"Give as many {names}, or one of each; got {', '.join(str(len(each)) for each in lists)}.")
    return [each * count if len(each) == 1 else each for each in lists]


class _Anything(tuple):
    """A tuple of types that has every type."""

    def __contains__(self, kind):
        return True


def _copy_code(kind, folder):
    """Copies the file of a class into a folder; returns [file's stem, class], as model_index.json names it."""
    file = Path(inspect.getfile(kind))
    folder.mkdir(parents=True, exist_ok=True)
    if file.resolve() != (folder / file.name).resolve():
        shutil.copyfile(file, folder / file.name)
    return [file.stem, kind.__name__]
