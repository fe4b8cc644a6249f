"""CogVideoX's image-to-video pipeline with dials for motion (MotionStone, arXiv:2412.05848).

This file ships inside exported folders. It needs PyTorch, diffusers and transformers.
"""

import torch
from diffusers import CogVideoXImageToVideoPipeline


class MotionStonePipeline(CogVideoXImageToVideoPipeline):
    """As its parent, with a score from 1 to 10 for each dial, and guidance on them."""

    model_cpu_offload_seq = "motion_scores->text_encoder->transformer->vae"

    def __init__(self, tokenizer, text_encoder, vae, transformer, scheduler, motion_scores):
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)
        self.register_modules(motion_scores=motion_scores)

    @torch.no_grad()
    def __call__(self, image, prompt=None, *args, motion_guidance=None, **kwargs):
        """All arguments of the parent, one for each dial (such as object=5.0, camera=5.0), and motion_guidance.

        motion_guidance: guidance scales by dial, such as {"camera": 2.0}. A dial with one is left out of the base
            and comes in with its scale, after the text; each takes one more evaluation of the transformer in every
            step. A dial without one is in all of them.
        """
        dials = self.motion_scores.config["scores"]
        asked = {name: kwargs.pop(name, score["default"]) for name, score in dials.items()}
        for name, value in asked.items():
            if not 1 <= value <= 10:
                raise ValueError(f"The {name} score is from 1 to 10; got {value}.")
        guided = dict(motion_guidance or {})
        unknown = set(guided) - set(dials)
        if unknown:
            raise ValueError(f"There is no dial {sorted(unknown)[0]}; there are {', '.join(dials)}.")
        if guided and kwargs.get("use_dynamic_cfg"):
            raise ValueError("motion_guidance needs a constant guidance_scale; leave use_dynamic_cfg out.")
        now = {**asked, **dict.fromkeys(guided)}
        vectors = [self.motion_scores(now)]
        for name in guided:
            now = {**now, name: asked[name]}
            vectors.append(self.motion_scores(now))
        adder = _Adder(vectors[0])
        hooks = [self.transformer.time_embedding.register_forward_hook(adder)]
        if guided:
            scale = kwargs.get("guidance_scale", 6)
            guide = _Guide(adder, vectors, list(guided.values()), max(scale, 1.0))
            hooks.append(self.transformer.register_forward_hook(guide, with_kwargs=True))
        try:
            return super().__call__(image, prompt, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()


class _Adder:
    """A hook that adds a vector to what the time embedding says."""

    def __init__(self, vector):
        self.vector = vector

    def __call__(self, module, inputs, output):
        return output + self.vector.to(output)


class _Guide:
    """A hook after the transformer: the part with the text also gets what guidance on the scores adds.

    The pipeline combines u + g (c - u) from the two halves of the batch, so what is added to c counts g times.
    """

    def __init__(self, adder, vectors, scales, text_scale):
        self.adder, self.vectors, self.scales, self.text_scale = adder, vectors, scales, text_scale

    def __call__(self, module, args, kwargs, output):
        outputs = [output[0]]
        for vector in self.vectors[1:]:
            self.adder.vector = vector
            outputs.append(module.forward(*args, **kwargs)[0])  # without this hook
        self.adder.vector = self.vectors[0]
        steps = zip(self.scales, outputs, outputs[1:], strict=False)
        total = sum(scale * (after - before) for scale, before, after in steps)
        first = outputs[0]
        if first.shape[0] % 2 or self.text_scale <= 1:
            return (first + total,)
        base, text = first.chunk(2)
        return (torch.cat([base, text + total.chunk(2)[1] / self.text_scale]),)
