import logging
import os
import sys

import pytest

from jaxmotion.foundation import command_line

CUBLAS = "--xla_gpu_enable_triton_gemm=false"


@pytest.mark.parametrize(
    ("plugin", "given", "expected"),
    [
        ("jax_cuda12_plugin", None, CUBLAS),
        ("jax_cuda13_plugin", "--xla_dump_to=x", f"--xla_dump_to=x {CUBLAS}"),
        ("jax_cuda12_plugin", "--xla_gpu_enable_triton_gemm=true", "--xla_gpu_enable_triton_gemm=true"),
        ("none", "--xla_dump_to=x", "--xla_dump_to=x"),  # flags of GPUs are not for a TPU
    ],
)
def test_products_are_left_to_cublas_unless_xla_flags_say_otherwise(monkeypatch, plugin, given, expected):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: name if name == plugin else None)
    command_line.tune_xla_on_nvidia()
    assert os.environ["XLA_FLAGS"] == expected


def test_warnings_begin_with_their_level(monkeypatch, capsys):
    """Also where a library has given stderr a handler before, as absl does when Orbax is imported."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    command_line.command(lambda _: logging.getLogger("jaxmotion.video").warning("a clip is left out"))
    assert capsys.readouterr().err == "WARNING: a clip is left out\n"
