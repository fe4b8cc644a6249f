"""A tokenizer without a vocabulary file: each lower-case word or punctuation mark is one token, a hash of it."""

import json
import re
import zlib
from pathlib import Path

import torch
from transformers import BatchEncoding


class HashTokenizer:
    """Texts to token ids of one length. The last two ids are the start and the end of a text; the end also fills up.

    vocabulary: how many ids there are.
    model_max_length: tokens of a text with its start and end; longer texts are cut.
    """

    config_name = "tokenizer_config.json"

    def __init__(self, vocabulary, model_max_length):
        self.vocabulary, self.model_max_length = vocabulary, model_max_length
        self.pad_token_id = self.eos_token_id = vocabulary - 1

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        """The tokenizer that is described in a folder."""
        config = json.loads((Path(folder) / cls.config_name).read_text())
        return cls(config["vocabulary"], config["model_max_length"])

    def save_pretrained(self, folder, **kwargs):
        """Describes the tokenizer in a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"vocabulary": self.vocabulary, "model_max_length": self.model_max_length}
        (Path(folder) / self.config_name).write_text(json.dumps(config, indent=2) + "\n")

    def __call__(self, text, max_length=None, padding="max_length", **kwargs):
        """Token ids, filled and cut to `max_length`, or filled to the longest text and not cut; a tensor always."""
        start, end = self.vocabulary - 2, self.vocabulary - 1
        length = min(max_length or self.model_max_length, self.model_max_length)
        rows = []
        for each in [text] if isinstance(text, str) else text:
            words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", each.lower())
            words = words if padding == "longest" else words[: length - 2]
            rows.append([start, *(zlib.crc32(word.encode()) % start for word in words), end])
        longest = max(map(len, rows)) if padding == "longest" else length
        return BatchEncoding({"input_ids": torch.tensor([ids + [end] * (longest - len(ids)) for ids in rows])})

    def batch_decode(self, rows, **kwargs):
        """The ids as texts: a hash does not say which word it was."""
        return [" ".join(f"#{int(each)}" for each in ids) for ids in rows]
