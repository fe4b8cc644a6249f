"""Captions to token ids: CLIP's tokenizer, and one that needs no download."""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


@dataclasses.dataclass(frozen=True)
class HashTokenizer:
    """Each lower-case word or punctuation mark is one token, whose id is a hash of it. Needs no vocabulary file.

    The last two ids are the start and the end of a text; the end also fills the rest, as CLIP does it. Two words may
    share an id: among n different words about n^2 / (2 vocabulary) pairs do.
    """

    vocabulary: int = 1024
    """How many ids there are."""
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
            words = _WORD.findall(caption.lower())[: self.length - 2]
            row[0] = self.vocabulary - 2
            row[1 : 1 + len(words)] = [zlib.crc32(word.encode()) % (self.vocabulary - 2) for word in words]
        return ids


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
    """CLIP's byte-pair tokenizer, as Stable Diffusion 1.5 uses it."""

    source: str = "openai/clip-vit-large-patch14"
    """A folder with `vocab.json` and `merges.txt`, or a Hugging Face repository."""
    length: int = 77
    """Tokens of a text with its start and end; longer texts are cut."""

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return 49408

    def __call__(self, captions: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """int32 token ids."""
        tokenizer = _clip_tokenizer(self.source)
        encoded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=self.length)
        return np.asarray(encoded["input_ids"], np.int32)


@functools.lru_cache(maxsize=4)
def _clip_tokenizer(source: str) -> Any:
    from transformers import CLIPTokenizer  # takes a second to import, and only this tokenizer needs it

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
