"""Shared parts of the command lines: their first options, and one clear message when something is wrong."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from jaxmotion.foundation.errors import InUseError, NotFiniteError, SaveError, describe_os_error
from jaxmotion.foundation.processes import exit_on_sigterm

EXPECTED = (ValueError, OSError, SaveError, NotFiniteError, InUseError)
"""Errors that say what is wrong with the input or the machine; anything else is a defect and keeps its traceback."""


def command(body: Callable[[list[str]], None]) -> None:
    """Runs a command line's body. Expected errors become one message on stderr and exit code 2."""
    _format_warnings()
    tune_glibc_malloc()
    exit_on_sigterm()
    tune_xla_on_nvidia()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it, for names that are not UTF-8
    try:
        body(sys.argv[1:])
    except EXPECTED as error:
        print(f"error: {describe_os_error(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _format_warnings() -> None:
    """Lets warnings begin with their level alone, where a library has given stderr its handler at import, too."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.root.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))


def parser(program: str, description: str, *, config: bool, run: str) -> argparse.ArgumentParser:
    """Returns a parser with `--run`, whose help text is `run`, and `--config` if `config`."""
    made = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if config:
        made.add_argument(
            "--config",
            metavar="FILE[:NAME]",
            help="a shipped config such as quickstart, or a Python file of yours, and which experiment of it "
            "(default full)",
        )
    made.add_argument("--run", type=Path, metavar="DIR", help=run)
    return made


def add_weights_option(
    parser: argparse.ArgumentParser, description: str = "averaged or latest weights (default ema)"
) -> None:
    """Adds `--weights ema|raw`; `live`, as earlier versions called `raw`, is taken for it."""
    parser.add_argument(
        "--weights",
        type=lambda value: "raw" if value == "live" else value,
        choices=("ema", "raw"),
        default="ema",
        help=description,
    )


def tune_glibc_malloc() -> None:
    """Tells glibc to keep large temporaries instead of handing them back to the kernel after every step.

    It is meant for CPU training (`benchmarks/train_step.py` measures it); other C libraries are left alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("MALLOC_TOP_PAD_"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # a C library other than glibc
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 * 2**20), (arena_max, 1)):
        mallopt(option, value)


def tune_xla_on_nvidia() -> None:
    """Tells XLA to leave matrix products to cuBLAS where JAX is installed for NVIDIA GPUs and `XLA_FLAGS` does not say.

    XLA's other way, Triton kernels, has no tiles for some of our products (rows of 240 x 360 pixels, or of 226 tokens).
    It finds that out by trying them on the device, and fails where it may not try (`--xla_gpu_autotune_level=0`,
    compiling ahead of time). XLA reads the variable when the first device is asked for, so call this before.
    """
    installed = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    given = os.environ.get("XLA_FLAGS", "")
    if installed and "xla_gpu_enable_triton_gemm" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_enable_triton_gemm=false".strip()
