"""What users of diffusers expect of a pipeline: precisions, seeds, batches, callbacks, LoRA, a stock tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxmotion.data.tokenize import ClipTokenizer
from jaxmotion.systems.livephoto.export import export_diffusers
from jaxmotion.weights.tokenizers import clip_component
from tests.support.exports import DIFFUSED, FOUR_CHANNELS, TOKENS, Case, opened, random_parameters, write_photo

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("diffusers")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture(scope="module")
def four_channels(tmp_path_factory: pytest.TempPathFactory) -> Case:
    params, folder = random_parameters(FOUR_CHANNELS), tmp_path_factory.mktemp("out") / "four_channels"
    export_diffusers(FOUR_CHANNELS, params, DIFFUSED, TOKENS, folder, meta={}, verify=False)
    return Case(FOUR_CHANNELS, DIFFUSED, params, folder, {})


def test_users_of_diffusers_find_what_they_expect(four_channels: Case, photo: Path) -> None:
    """Half precision, seeds, batches, forms of output, and a callback."""
    pipe = opened(four_channels)
    seen = []

    def keep(pipe: Any, i: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append((i, int(t), given["latents"].shape))
        return given

    def clip_of(**asked: Any) -> Any:
        seed = torch.Generator().manual_seed(1)
        asked = {"num_inference_steps": 2, "prior_strength": (0, 0), "guidance_scale": 1, **asked}
        return pipe(Image.open(photo), "a dog", generator=seed, **asked)

    frames = clip_of(output_type="pt", callback_on_step_end=keep).frames
    assert frames.shape == (1, 4, 3, 16, 24)
    assert seen == [(0, 501, (1, 4, 4, 8, 12)), (1, 1, (1, 4, 4, 8, 12))]
    pictures = clip_of().frames[0]
    np.testing.assert_allclose(np.asarray(pictures[2]) / 255, frames[0, 2].movedim(0, -1), atol=0.51 / 255)
    assert torch.equal(clip_of(output_type="pt", return_dict=False)[0], frames)
    with torch.no_grad():
        pixels = pipe.decode_latents(clip_of(output_type="latent").frames, 1)
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1).transpose(1, 2), frames)
    levels = clip_of(motion_level=[1, 10], num_inference_steps=1, output_type="np").frames
    assert levels.shape == (2, 4, 16, 24, 3)

    half = pipe.to(dtype=torch.bfloat16)
    assert (clip_of(output_type="pt").frames - frames).abs().mean() < 0.05  # eight bits, through random networks
    assert half.content_layers.dtype == torch.bfloat16


def test_a_lora_of_the_base_model_loads(four_channels: Case, photo: Path) -> None:
    pytest.importorskip("peft")
    pipe = opened(four_channels)

    def clip() -> Any:
        seed = torch.Generator().manual_seed(1)
        asked = {"num_inference_steps": 1, "prior_strength": (0, 0), "output_type": "pt"}
        return pipe(Image.open(photo), generator=seed, **asked).frames

    before = clip()
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pipe.load_lora_weights({f"{name}.lora_A.weight": torch.randn(2, 32), f"{name}.lora_B.weight": torch.randn(32, 2)})
    assert (clip() - before).abs().max() > 1e-3
    pipe.unload_lora_weights()
    torch.testing.assert_close(clip(), before)


def test_clips_tokenizer_goes_along(shared_weights: Path, tmp_path: Path) -> None:
    source = shared_weights / "tokenizers" / "clip"
    component = ClipTokenizer(str(source)).export()
    component.write_into(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    texts = ["", "The camera pans left!", "word " * 100]
    ids = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
    np.testing.assert_array_equal(ids, ClipTokenizer(str(source))(texts))
    assert theirs.model_max_length == 77
    with pytest.raises(FileNotFoundError, match=r"merges\.txt and vocab\.json missing"):
        clip_component(tmp_path / "nothing", 77)
