"""Captions to token ids: CLIP's and T5's tokenizers, and one that needs no download."""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from jaxmotion.foundation.config_json import register
from jaxmotion.foundation.files import TOKENIZER_CONFIG, TOKENIZER_FILES, check_file_names
from jaxmotion.foundation.text_files import well_formed

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import CLIPTokenizer

    from jaxmotion.weights.diffusers_folder import Component

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


class Tokenizer:
    """Base of tokenizers: frozen dataclasses with `@register()`, which have these fields or properties."""

    vocabulary: int
    """Number of ids."""
    length: int
    """Tokens of a text with its start and end; longer texts are cut."""

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Returns int32 token ids."""
        raise NotImplementedError(f"{type(self).__name__} must say how it makes token ids.")

    def cut_off(self, caption: str) -> str:
        """Returns the end of a text that does not fit into the length; empty if it fits, or if that cannot be said."""
        return ""

    def export(self) -> Component:
        """Returns this tokenizer as a component of an exported pipeline.

        Raises:
            ValueError: it has no form that others could load.
        """
        raise ValueError(f"A {type(self).__name__} has no public counterpart to be exported as.")


@register()
@dataclasses.dataclass(frozen=True)
class HashTokenizer(Tokenizer):
    """Each lower-case word or punctuation mark is one token, whose id is a hash of it. Needs no vocabulary file.

    The last two ids are the start and the end of a text; the end also fills the rest, as CLIP does it. Two words may
    share an id: among n different words about n^2 / (2 vocabulary) pairs do.
    """

    vocabulary: int = 1024
    """Number of ids."""
    length: int = 16
    """Tokens of a text with its start and end; longer texts are cut."""

    def __post_init__(self) -> None:
        if self.vocabulary < 3 or self.length < 2:
            raise ValueError(
                f"A tokenizer needs 3 ids and 2 tokens or more; got vocabulary {self.vocabulary}, length {self.length}."
            )

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """int32 token ids."""
        ids = np.full((len(captions), self.length), self.vocabulary - 1, np.int32)
        for row, caption in zip(ids, captions, strict=True):
            words = _WORD.findall(well_formed(caption).lower())[: self.length - 2]
            row[0] = self.vocabulary - 2
            row[1 : 1 + len(words)] = [zlib.crc32(word.encode()) % (self.vocabulary - 2) for word in words]
        return ids

    def cut_off(self, caption: str) -> str:
        """The end of a text that does not fit; empty if it fits."""
        text = well_formed(caption)
        lower = text.lower()  # of another length where a letter becomes two
        words = list(_WORD.finditer(lower))[self.length - 2 :]
        return (text if len(text) == len(lower) else lower)[words[0].start() :] if words else ""

    def export(self) -> Component:
        """Returns this tokenizer as a component of an exported pipeline."""
        from jaxmotion.weights.tokenizers import hash_component  # imports JAX, which loading processes do without

        return hash_component(self.vocabulary, self.length)


@register()
@dataclasses.dataclass(frozen=True)
class ClipTokenizer(Tokenizer):
    """CLIP's byte-pair tokenizer, as Stable Diffusion 1.5 uses it."""

    source: str = "openai/clip-vit-large-patch14"
    """A folder with `vocab.json` and `merges.txt`, or a Hugging Face repository."""
    length: int = 77
    """Tokens of a text with its start and end; longer texts are cut."""

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return 49408

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """int32 token ids."""
        tokenizer = _clip_tokenizer(self.source)
        texts = list(map(well_formed, captions))
        encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=self.length)
        return np.asarray(encoded["input_ids"], np.int32)

    def cut_off(self, caption: str) -> str:
        """The end of a text that does not fit, as the tokenizer spells it; empty if it fits."""
        tokenizer = _clip_tokenizer(self.source)
        ids = tokenizer(well_formed(caption), add_special_tokens=False, verbose=False)["input_ids"]
        return str(tokenizer.decode(ids[self.length - 2 :])).strip()

    def export(self) -> Component:
        """Returns this tokenizer as a component of an exported pipeline, its files fetched if need be."""
        from jaxmotion.weights.hub import files_of  # imports JAX, which loading processes do without
        from jaxmotion.weights.tokenizers import CLIP_FILES, clip_component

        return clip_component(files_of(self.source, CLIP_FILES), self.length)


@register()
@dataclasses.dataclass(frozen=True)
class T5Tokenizer(Tokenizer):
    """T5's SentencePiece tokenizer, as CogVideoX uses it: the text, its end (id 1), and padding (id 0)."""

    source: str = "THUDM/CogVideoX-5b-I2V"
    """A `spiece.model` file, a folder with one (or with one in `tokenizer/`), or a Hugging Face repository."""
    length: int = 226
    """Tokens of a text with its end; longer texts are cut."""

    @property
    def vocabulary(self) -> int:
        """Number of ids: 32,000 pieces, and others that captions do not use."""
        return 32128

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """int32 token ids."""
        pieces = _t5_pieces(self.source)
        ids = np.zeros((len(captions), self.length), np.int32)
        for row, caption in zip(ids, captions, strict=True):
            words = pieces.encode(well_formed(caption))[: self.length - 1]
            row[: len(words) + 1] = [*words, 1]
        return ids

    def cut_off(self, caption: str) -> str:
        """The end of a text that does not fit; empty if it fits."""
        pieces = _t5_pieces(self.source)
        return pieces.decode(pieces.encode(well_formed(caption))[self.length - 1 :]).strip()

    def export(self) -> Component:
        """Returns this tokenizer as a component of an exported pipeline, its file fetched if need be."""
        from jaxmotion.weights.tokenizers import t5_component  # imports JAX, which loading processes do without

        return t5_component(spiece(self.source), self.length)


@functools.lru_cache(maxsize=4)
def _t5_pieces(source: str) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError("T5's tokenizer needs sentencepiece; pip install 'jaxmotion[t5]'.") from error
    file = spiece(source)
    try:
        return SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{file} is no SentencePiece model ({error}); is it whole?") from error


def spiece(source: str) -> Path:
    """The file of T5's pieces in a file, a folder or a repository.

    Raises:
        FileNotFoundError: there is none, or the repository cannot be reached.
    """
    path = Path(source)
    places = [path, path / "spiece.model", path / "tokenizer" / "spiece.model"]
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        return found
    if path.exists() or source.count("/") != 1:
        raise FileNotFoundError(f"No T5 tokenizer in {source!r}: it must hold spiece.model.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, "tokenizer/spiece.model"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"No T5 tokenizer in {source!r}: it must be a file spiece.model, a folder with it, or a reachable Hugging "
            "Face repository."
        ) from error


@functools.lru_cache(maxsize=4)
def _clip_tokenizer(source: str) -> CLIPTokenizer:
    from transformers import CLIPTokenizer  # takes a second to import, and only this tokenizer needs it

    check_file_names(Path(source) / TOKENIZER_CONFIG, TOKENIZER_FILES)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source)
    except OSError as error:
        kind = "folder" if Path(source).exists() else "folder or reachable Hugging Face repository"
        raise FileNotFoundError(
            f"No CLIP tokenizer in {source!r}: it must be a {kind} with vocab.json and merges.txt."
        ) from error
    if len(tokenizer) < 49408:
        raise ValueError(
            f"The tokenizer in {source!r} has {len(tokenizer)} ids; CLIP's has 49408. "
            "Are vocab.json and merges.txt whole?"
        )
    return tokenizer
