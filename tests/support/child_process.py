"""How tests start other Python processes."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**more):
    """This process's environment for one that imports the package and the toy task, on the CPU."""
    found = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, found)), **more}
