"""Exported pipelines take what the stock pipelines of diffusers take, and make of it what users of those expect."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.support.exported_pipelines import BOTH, Exported, seed

pytestmark = pytest.mark.usefixtures("one_thread")

STOCK = (diffusers.AnimateDiffPipeline, diffusers.CogVideoXImageToVideoPipeline)
UNION = {
    name: each
    for kind in STOCK
    for name, each in inspect.signature(kind.__call__).parameters.items()
    if name not in ("self", "kwargs")
}
"""Arguments of a call of the pipelines that users know."""
SAME, OTHER, LARGER = "same", "other", "larger"


# What an argument does to the latents of (LivePhoto, MotionStone): nothing, something, or the message that refuses it.
EFFECTS: dict[str, list[tuple[Any, str, str]]] = {
    "image": [(np.zeros((16, 24, 3), np.uint8), OTHER, OTHER), ("photo.jpg", "must be PIL", "must be PIL")],
    "prompt": [("a cat", OTHER, OTHER), (None, OTHER, "Give a prompt")],
    "negative_prompt": [(None, SAME, SAME), ("", SAME, SAME), ("a cat", OTHER, OTHER)],
    "height": [(None, SAME, SAME), (17, "multiples of 4 px", "multiples of 16 px"), (64, LARGER, "32 x 48 px only")],
    "width": [(None, SAME, SAME), (17, "multiples of 4 px", "multiples of 16 px"), (96, LARGER, "32 x 48 px only")],
    "num_frames": [(None, SAME, SAME), (16, "clips of 4 frames", "4 n [+] 1, such as 13 or 17; got 16")],
    "num_inference_steps": [(2, SAME, SAME), (3, OTHER, OTHER), (0, "whole number from 1", "whole number from 1")],
    "timesteps": [(None, SAME, SAME), ([900, 100], "DDIMScheduler takes no custom timesteps", "takes no custom")],
    "guidance_scale": [(1.0, OTHER, OTHER), (9.0, OTHER, OTHER)],
    "use_dynamic_cfg": [(False, SAME, SAME), (True, OTHER, OTHER)],
    "num_videos_per_prompt": [(1, SAME, SAME), (2, LARGER, LARGER), (0, "from 1; got 0", "from 1; got 0")],
    "eta": [(0.0, SAME, SAME), (0.7, OTHER, OTHER)],
    "generator": [(None, OTHER, OTHER), ([None, None], "one generator, or 1: one", "one generator, or 1: one")],
    "latents": [(torch.zeros(1, 2), r"\[1, 2\]; this call needs", r"\[1, 2\]; this call needs")],
    "prompt_embeds": [(torch.zeros(1, 2, 3), "not both", "not both")],
    "negative_prompt_embeds": [(torch.zeros(1, 2, 3), "one length and width", "one length and width")],
    "output_type": [("jpg", "pil, np, pt, latent; got 'jpg'", "pil, np, pt, latent; got 'jpg'")],
    "return_dict": [(True, SAME, SAME)],
    "attention_kwargs": [({"scale": 0.5}, SAME, SAME)],  # no LoRA is there
    "cross_attention_kwargs": [({"scale": 0.5}, SAME, SAME)],
    "clip_skip": [(0, SAME, SAME), (1, OTHER, "no CLIP"), (2, "clip_skip is from 0 to 1", "no CLIP")],
    "callback_on_step_end": [(lambda pipe, i, t, given: given, SAME, SAME)],
    "callback_on_step_end_tensor_inputs": [(["latents"], SAME, SAME), (["noise"], "got noise", "got noise")],
    "max_sequence_length": [(226, SAME, SAME), (3, OTHER, "texts of 6 tokens, filled up or cut; got 3")],
    "decode_chunk_size": [(16, SAME, SAME), (1, SAME, SAME)],
    "ip_adapter_image": [(None, SAME, SAME), (np.zeros((4, 4, 3)), "no IP-Adapter", "no IP-Adapter")],
    "ip_adapter_image_embeds": [(None, SAME, SAME), ([torch.zeros(1)], "no IP-Adapter", "no IP-Adapter")],
}


def test_every_argument_of_the_stock_pipelines_is_tried(exported: Exported) -> None:
    """A new one of another version of diffusers makes this fail, until it is thought of."""
    mine = inspect.signature(type(exported.pipe).__call__).parameters
    assert set(EFFECTS) == set(UNION)
    assert set(UNION) <= set(mine)


@pytest.mark.parametrize("argument", EFFECTS)
def test_an_argument_does_what_it_says_or_is_refused(exported: Exported, plain: dict[str, Any], argument: str) -> None:
    for value, *effects in EFFECTS[argument]:
        effect = effects[BOTH.index(exported.name)]
        if effect not in (SAME, OTHER, LARGER):
            with pytest.raises((ValueError, TypeError), match=effect):
                exported(**{argument: value})
            continue
        found, expected = exported(**{argument: value}), plain[exported.name]
        assert torch.isfinite(found).all()
        if effect == LARGER:
            assert found.numel() > expected.numel()
        else:
            assert torch.equal(found, expected) == (effect == SAME), (value, effect)


def test_values_that_the_stock_pipelines_have_by_default_are_never_ignored(exported: Exported) -> None:
    """Code that spells them out runs, or is told what the model was trained on."""
    defaults = {name: each.default for name, each in UNION.items() if each.default not in (each.empty, 50)}
    left_out = {"prompt": None, "num_frames": 16}  # CogVideoX wants a prompt, and LivePhoto its own length
    exported(**{**defaults, "prompt": "a dog", "num_frames": None, "output_type": "latent"})
    for name, value in left_out.items():
        with contextlib.suppress(ValueError):
            assert exported(**{name: value}).shape == exported().shape


# Prompts and batches


def test_embeddings_are_the_prompt_bit_by_bit(exported: Exported, plain: dict[str, Any]) -> None:
    text, negative = exported.embeds("a dog runs")
    expected = plain[exported.name]
    assert torch.equal(exported(prompt=None, prompt_embeds=text, negative_prompt_embeds=negative), expected)
    assert torch.equal(exported(prompt=None, prompt_embeds=text), expected)
    assert torch.equal(exported(negative_prompt_embeds=negative), expected)
    cat, _ = exported.embeds("a cat")
    assert torch.equal(exported(negative_prompt_embeds=cat), exported(negative_prompt="a cat"))


def test_several_videos_of_a_prompt_are_as_many_calls(exported: Exported) -> None:
    both = exported(num_videos_per_prompt=2, generator=[seed(1), seed(2)], eta=0.5)
    each = [exported(generator=seed(number), eta=0.5) for number in (1, 2)]
    torch.testing.assert_close(both, torch.cat(each), atol=1e-4, rtol=0)


def test_lists_of_photos_and_prompts_are_as_many_calls(exported: Exported) -> None:
    """What there is one of serves all; videos of one prompt are neighbours."""
    photos, prompts = [exported.photo, exported.photo.rotate(180)], ["a dog runs", "a cat"]
    dial = {"livephoto": "motion_level", "motionstone": "camera"}[exported.name]
    both = exported(image=photos, prompt=prompts, generator=[seed(1), seed(2)], **{dial: [2, 9]})
    each = zip(photos, prompts, (1, 2), (2, 9), strict=True)
    one_by_one = [exported(image=i, prompt=p, generator=seed(s), **{dial: d}) for i, p, s, d in each]
    torch.testing.assert_close(both, torch.cat(one_by_one), atol=1e-4, rtol=0)
    four = exported(prompt=prompts, num_videos_per_prompt=2, generator=[seed(n) for n in range(4)])
    third = exported(prompt="a cat", generator=seed(2))
    torch.testing.assert_close(four[2:3], third, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"Give as many .* got 2, 3, 1"):
        exported(image=photos, prompt=["a", "b", "c"])


def test_photos_of_all_forms_are_the_same_photo(exported: Exported, plain: dict[str, Any]) -> None:
    array = np.asarray(exported.photo)
    floats = array.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).movedim(-1, 0)
    forms = [
        array,
        array[None],
        [array],
        floats,
        tensor,
        tensor[None],
        [tensor],
        (tensor * 255).round().to(torch.uint8),
    ]
    for form in [*forms, exported.photo.convert("RGBA")]:
        torch.testing.assert_close(exported(image=form), plain[exported.name], atol=1e-4, rtol=0)


def test_the_text_is_cut_where_it_is_said(exports: dict[str, Exported]) -> None:
    """Four tokens are the start, two words and the end."""
    exported = exports["livephoto"]
    assert torch.equal(exported(prompt="a dog runs far", max_sequence_length=4), exported(prompt="a dog"))


def test_words_that_are_not_read_are_said(shared_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import CLIPTokenizer

    from jaxmotion.weights.pytorch.exported_pipeline import warn_of_cut_prompts

    tokenizer = CLIPTokenizer.from_pretrained(shared_weights / "tokenizers" / "clip")
    warn_of_cut_prompts(tokenizer, ["a dog", "a dog runs along the beach"], 5)
    (record,) = caplog.records
    assert record.getMessage() == "The prompt is longer than 5 tokens; this is not read: along the beach"


def test_layers_that_are_skipped_are_those_of_the_text_encoder(exports: dict[str, Exported]) -> None:
    pipe = exports["livephoto"].pipe
    ids = pipe.tokenizer(["a dog"]).input_ids
    layers = pipe.text_encoder.encoder.layers
    with torch.no_grad():
        skipped, _ = pipe.encode_prompt("a dog", clip_skip=1)
        last, pipe.text_encoder.encoder.layers = layers, layers[:-1]
        expected = pipe.text_encoder(ids).last_hidden_state
        pipe.text_encoder.encoder.layers = last
    assert torch.equal(skipped, expected)


# Callbacks and what a call says of itself


def test_a_callback_sees_and_changes_what_it_asked_for(exported: Exported, plain: dict[str, Any]) -> None:
    seen = []

    def look(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append((i, int(t), pipe.guidance_scale, pipe.num_timesteps, pipe.do_classifier_free_guidance, set(given)))
        return {"latents": given["latents"] * 0} if i == 1 else {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    asked = {"guidance_scale": 4.0, "callback_on_step_end_tensor_inputs": names}
    found = exported(callback_on_step_end=look, **asked)
    assert not found.any()
    times = exported.pipe.scheduler.timesteps.tolist()
    assert seen == [(i, t, 4.0, 2, True, set(names)) for i, t in enumerate(times)]
    assert not exported.pipe.interrupt


def test_a_callback_interrupts_and_the_next_call_runs(exported: Exported, plain: dict[str, Any]) -> None:
    def stop(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        first.append(given["latents"])
        return given

    first: list[Any] = []
    found = exported(callback_on_step_end=stop, num_inference_steps=5)
    assert len(first) == 1
    assert torch.equal(found, first[0])
    assert torch.equal(exported(), plain[exported.name])


def test_guidance_that_is_cut_off_is_none_from_there_on(exports: dict[str, Exported]) -> None:
    """As the guide of diffusers does it: the scale 0, and the embeddings without the negative ones."""
    exported = exports["livephoto"]

    def cut(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 0.0
        return {**given, "prompt_embeds": given["prompt_embeds"].chunk(2)[-1]} if i == 0 else given

    inputs = ["latents", "prompt_embeds"]
    ours = exported(callback_on_step_end=cut, callback_on_step_end_tensor_inputs=inputs, num_inference_steps=3)
    official = diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    assert torch.equal(exported(callback_on_step_end=official, num_inference_steps=3), ours)
    assert not torch.equal(exported(num_inference_steps=3), ours)
    assert not torch.equal(exported(num_inference_steps=3, guidance_scale=1.0), ours)


def test_the_progress_bar_is_that_of_diffusers(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    exported.pipe.set_progress_bar_config(desc="animating", disable=False)
    exported()
    exported.pipe.set_progress_bar_config(disable=True)
    assert "animating: 100%" in capsys.readouterr().err
    exported()
    assert not capsys.readouterr().err
