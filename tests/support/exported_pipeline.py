"""A process that knows nothing of jaxmotion: opens exported folders with plain diffusers and makes clips with them.

    python exported_pipeline.py JOBS.json

Each job names a folder, the photo and the noise (`.npy`), the arguments of the call, and where the frames go.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error"}

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

torch.set_num_threads(1)

for job in json.loads(Path(sys.argv[1]).read_text()):
    pipe = DiffusionPipeline.from_pretrained(job["folder"], trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    photo, noise = Image.open(job["photo"]), torch.from_numpy(np.load(job["noise"]))
    np.save(job["frames"], pipe(photo, latents=noise, output_type="np", **job["call"]).frames)

assert not [name for name in sys.modules if name.split(".")[0] in ("jax", "flax", "jaxmotion")]
