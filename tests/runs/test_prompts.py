"""Prompts that are longer than the text encoder reads are cut, and what is left out is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from jaxmotion.data.tokenize import HashTokenizer
from jaxmotion.runs import trained


def test_what_is_cut_off_a_prompt_is_said_once(monkeypatch, caplog):
    system = SimpleNamespace(controls={}, check_guidance=lambda _: None)
    made = SimpleNamespace(tokenizer=HashTokenizer(1000, 6), system=system, sampling=None)
    run = trained.TrainedRun(Path("run"), made, None, {})  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(trained, "generate", lambda model, params, batch, *rest, **named: batch["text"])
    photos = np.zeros((3, 4, 4, 3), np.uint8)
    long = "a long red Car turns left"
    ids = run.generate(photos, ["a car", long, long], [{}] * 3)
    assert (ids[1] == made.tokenizer(["a long red car"])[0]).all()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The prompt is longer than the 6 tokens that the text encoder reads; left out is its end: turns left"
    ]
    run.generate(photos, [long] * 3, [{}] * 3)
    assert len(caplog.records) == 1
