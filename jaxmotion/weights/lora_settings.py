"""PEFT's settings of a LoRA: in `adapter_config.json` beside the file, or in the header of a safetensors file.

Source: `LoraConfig` and `get_pattern_key` of PEFT 0.20; `lora_base.py` of diffusers 0.42, which keeps the settings in
the header with the name of a pipeline's component before each; finetrainers, which writes `lora_config` there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxmotion.foundation.config_json import Json
from jaxmotion.foundation.errors import CheckpointFileError

HEADER = "lora_adapter_metadata"
"""The entry of a safetensors header in which diffusers keeps PEFT's settings, as JSON."""
CONFIG = "adapter_config.json"
_TRAINER = "lora_config"
_OTHER_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the frozen weights too, so that the factors fit no public checkpoint."""
_NOT_FACTORS = {
    "use_dora": "is DoRA, which scales the columns of the weights",
    "use_qalora": "is QALoRA, whose factors see averages of their inputs",
    "use_bdlora": "is BD-LoRA, whose factors are blocks of a diagonal",
    "kasa_config": "is KaSA, which changes the frozen weights too",
    "layer_replication": "repeats layers of the model",
    "alora_invocation_tokens": "is an activated LoRA, which acts after certain tokens only",
}
"""Settings under which the product of the factors is not what is added to a weight."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a file; names may have that of a component before them, `unet.lora_alpha`."""

    values: Json
    source: str

    def alpha(self, component: str, names: Iterable[str], rank: int) -> float | None:
        """Returns the number that, divided by the rank, multiplies a layer's product; None where nothing is said.

        Args:
            names: of the torch layer, in all spellings.

        Raises:
            CheckpointFileError: what is said is no number.
        """
        own = {name.removeprefix(f"{component}."): value for name, value in self.values.items()}
        patterns: Mapping[str, float] = own.get("alpha_pattern") or {}
        names = tuple(names)
        try:
            fitting = [a for key, a in patterns.items() if any(re.match(rf"(.*\.)?({key})$", name) for name in names)]
        except re.error as error:
            raise CheckpointFileError(f"{self.source} has an alpha_pattern that is no pattern: {error}.") from error
        said = fitting[0] if fitting else own.get("lora_alpha")
        if said is None:
            return None
        try:
            alpha = float(said)
        except (TypeError, ValueError):
            alpha = math.nan
        if not math.isfinite(alpha):
            raise CheckpointFileError(f"{self.source} says lora_alpha {said!r}; a number is needed.")
        return alpha * rank**0.5 if own.get("use_rslora") else alpha

    def check(self) -> None:
        """Raises CheckpointFileError if they are of another kind of adapter than two factors for each weight."""
        for name, value in self.values.items():
            setting = name.rpartition(".")[2]
            kind = str(value).rpartition(".")[2].upper()
            if setting == "peft_type" and kind != "LORA":
                raise CheckpointFileError(f"{self.source} says {name} {kind}; only LORA is read here.")
            if setting in _NOT_FACTORS and value:
                what = _NOT_FACTORS[setting]
                raise CheckpointFileError(f"{self.source} says {name}: this adapter {what}. Only LoRA is read here.")
            if setting == "init_lora_weights" and str(value).lower().startswith(_OTHER_WEIGHTS):
                raise CheckpointFileError(
                    f"{self.source} says {name} {value!r}, which has changed the frozen weights as well, so that the "
                    "factors alone fit no public checkpoint. Save it anew with PEFT's "
                    "path_initial_model_for_weight_conversion."
                )


def read_header(metadata: Mapping[str, str], source: str) -> Settings:
    """Returns the settings in the header of a file; empty ones where there are none.

    Raises:
        CheckpointFileError: they are no JSON.
    """
    for name in (HEADER, _TRAINER):
        if name in metadata:
            values = _parse(metadata[name], f"{source}, {name} in its header,")
            if name == HEADER or "lora_alpha" in values:
                return Settings(values, f"{source}, {name} in its header,")
    return Settings({}, source)


def read_config(file: Path) -> Json:
    """Returns the content of an `adapter_config.json`. Raises CheckpointFileError if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointFileError(f"{file} cannot be read: {error}.") from error
    return _parse(text, str(file))


def _parse(text: str, source: str) -> Json:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointFileError(f"{source} is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointFileError(f"{source} is {type(values).__name__}, not an object of settings.")
    return values
