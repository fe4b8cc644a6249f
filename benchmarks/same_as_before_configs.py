"""Small variants of the shipped experiments, for comparing one version of the package with another.

Everything is a shipped value of the imported package's own `configs/` with some fields replaced, so that this file
names no module and works with versions whose modules lie elsewhere.
"""

import dataclasses
import importlib.util
from pathlib import Path

replace = dataclasses.replace
_found = importlib.util.find_spec("jaxmotion")
assert _found is not None
assert _found.origin is not None
_CONFIGS = Path(_found.origin).parents[1] / "configs"


def _shipped(stem):
    spec = importlib.util.spec_from_file_location(f"shipped_{stem}", _CONFIGS / f"{stem}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_livephoto, _motionstone = _shipped("livephoto"), _shipped("motionstone")


def _never_dropped(experiment):
    """The experiment without dropping; earlier versions had its rates in the conditioners."""
    system = experiment.system
    if hasattr(system, "dropout"):
        return replace(experiment, system=replace(system, dropout=dict.fromkeys(system.dropout, 0.0)))
    return replace(experiment, system=replace(system, conditioners=_without_rates(system.conditioners)))


def _without_rates(conditioners):
    """Conditioners of earlier versions, at a rate of 0; later ones have none."""
    fields = ("probability", "dropped")
    return {
        name: replace(part, **{field: 0.0 for field in fields if hasattr(part, field)})
        for name, part in conditioners.items()
    }


livephoto_no_drop = _never_dropped(_livephoto.tiny)
motionstone_no_drop = _never_dropped(_motionstone.tiny)


def _inner(part):
    """The conditioner that earlier versions wrapped to drop it."""
    return part.of if hasattr(part, "probability") else part


def _livephoto_kl():
    """On the autoencoder of Stable Diffusion, which diffusers has too."""
    full, tiny = _livephoto.full, _livephoto.tiny
    codec = replace(full.system.codec, frames_at_once=3)
    codec = replace(codec, sizes=replace(codec.sizes, features=(16, 32), blocks_per_stage=1, groups=4))
    unet = replace(
        tiny.system.unet,
        in_channels=4,
        out_channels=4,
        features=(32, 64),
        attention_stages=(True, False),
        groups=8,
    )
    system = replace(tiny.system, unet=unet, codec=codec, process=full.system.process, frames=4, size=(16, 24))
    sampling = replace(tiny.sampling, sampler=replace(full.sampling.sampler, steps=3), guidance=3.0, inversion_steps=2)
    train = replace(tiny.train, batch_size=2, trained=full.train.trained)
    data = replace(tiny.data, frames=4, size=(16, 24))
    return replace(tiny, system=system, sampling=sampling, train=train, data=data)


def _adapt(lora, system):
    """The LoRA of another system; earlier versions called the field `of`."""
    return replace(lora, **{"base" if hasattr(lora, "base") else "of": system})


livephoto_kl = _livephoto_kl()
livephoto_kl_lora = replace(
    livephoto_kl,
    system=_adapt(_livephoto.tiny_lora.system, livephoto_kl.system),
    train=replace(livephoto_kl.train, trained=_livephoto.tiny_lora.train.trained),
)


def _causal(full):
    """CogVideoX with its autoencoder, on clips made on the fly, scored by the motion meter of the package."""
    tiny, frames, size = _motionstone.tiny, 5, (32, 48)
    text = tiny.system.conditioners["text"]
    time = 24
    transformer = replace(
        full.system.transformer,
        depth=2,
        heads=2,
        head_features=32,
        in_channels=8,
        out_channels=4,
        text_features=_inner(text).encoder.features,
        text_length=_inner(text).encoder.length,
        time_features=time,
        grid=(2, 2, 3),
        remat="none",
        pad_to=16,
    )
    sizes = replace(full.system.codec.sizes, latent_channels=4, features=(8, 8, 8, 16), blocks_per_stage=1, groups=4)
    parts = dict(full.system.conditioners)
    parts["image"] = _without_rates({"image": parts["image"]})["image"]
    for name in ("object", "camera"):
        part = replace(_inner(parts[name]), features=time)
        parts[name] = replace(parts[name], of=part) if hasattr(parts[name], "of") else part
    system = replace(
        full.system,
        transformer=transformer,
        codec=replace(full.system.codec, sizes=sizes),
        conditioners={**parts, "text": replace(text, probability=0.5) if hasattr(text, "probability") else text},
        # The stream of random numbers that drops the picture is another in later versions, so it is never dropped here.
        **({"dropout": {**full.system.dropout, "image": 0.0, "text": 0.5}} if hasattr(full.system, "dropout") else {}),
        frames=frames,
        size=size,
    )
    return replace(
        tiny,
        system=system,
        data=replace(tiny.data, clips=24, frames=frames, fps=full.data.fps, size=size),
        train=replace(
            tiny.train, batch_size=2, trained=full.train.trained, precision="float32", sample_every=0, save_every=10
        ),
        sampling=replace(tiny.sampling, sampler=replace(tiny.sampling.sampler, steps=3), guidance=3.0),
        workers=0,
    )


motionstone_causal = _causal(_motionstone.full)
motionstone_prepared = replace(
    motionstone_causal,
    data=replace(
        _motionstone.prepared.data, frames=5, fps=motionstone_causal.data.fps, size=motionstone_causal.system.size
    ),
)
