"""Damaged files of all kinds: the readers neither crash nor hang nor swell, and say by a named error what is wrong."""

import csv
import io
import json
import queue
import struct
import subprocess
import sys
import threading

import av
import numpy as np
import pytest
from PIL import Image

SECONDS = 20
MOST_KILOBYTES = 2 * 2**20
COUNTS = {".mp4": 400, ".gif": 300, ".png": 300, ".jsonl": 250, ".csv": 250, ".safetensors": 250, ".pt": 250}
PICTURES = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def write_film(path, codec="libx264", movflags="", **options):
    with av.open(str(path), "w", container_options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in PICTURES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def write_gif(path):
    pictures = [Image.fromarray(picture) for picture in PICTURES]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 10] * 10, loop=0)


def write_png(path):
    Image.fromarray(PICTURES[0]).save(path)


def rows():
    return [
        {"file_name": f"clips/{n}.mp4", "caption": f'a "dog", {n} é', "path": f"{n}.mp4", "object": 3.5, "camera": 1.0}
        for n in range(12)
    ]


def write_jsonl(path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()), encoding="utf-8")


def write_csv(path):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows()[0]))
    writer.writeheader()
    writer.writerows(rows())
    path.write_text(text.getvalue(), encoding="utf-8")


def write_safetensors(path):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for n in range(4):
        tensor = np.arange(12, dtype=np.float32).tobytes()
        header[f"layer.{n}.weight"] = {
            "dtype": "F32",
            "shape": [3, 4],
            "data_offsets": [len(data), len(data) + len(tensor)],
        }
        data += tensor
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_pt(path, **options):
    torch = pytest.importorskip("torch", reason="needs PyTorch, of the extra 'test', to write a .pt file")
    state = {f"layer.{n}.weight": torch.arange(12.0).reshape(3, 4) for n in range(4)}
    torch.save({"state_dict": state, "epoch": 3}, path, **options)


SAMPLES = {
    "b_frames.mp4": lambda path: write_film(path, bf="2", g="8"),
    "fragments.mp4": lambda path: write_film(path, movflags="frag_keyframe+empty_moov", g="8"),
    "mpeg4.mp4": lambda path: write_film(path, "mpeg4", movflags="faststart"),
    "film.gif": write_gif,
    "picture.png": write_png,
    "metadata.jsonl": write_jsonl,
    "metadata.csv": write_csv,
    "model.safetensors": write_safetensors,
    "model.pt": write_pt,
    "before_1_6.pt": lambda path: write_pt(path, _use_new_zipfile_serialization=False),
}


def outcomes(folder, sample, start, stop):
    """Yields what a reader makes of damaged copies; fails the test when it takes too long or its process ends."""
    command = [sys.executable, "-m", "tests.support.fuzzed_readers", str(folder), str(sample), str(start), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in [*iter(process.stdout.readline, ""), ""]]).start()
        for number in range(start, stop):
            try:
                line = lines.get(timeout=SECONDS + 40 * (number == start))  # imports, at first
            except queue.Empty:
                process.kill()
                pytest.fail(f"{sample.name}, damage {number}: no end after {SECONDS} s; its copy is in {folder}")
            if not line:
                pytest.fail(f"{sample.name}, damage {number}: the process ended with {process.wait()}; see {folder}")
            yield json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files(name, tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    sample = tmp_path / name
    SAMPLES[name](sample)
    of_kind = [each for each in SAMPLES if each.endswith(sample.suffix)]
    count = -(-COUNTS[sample.suffix] // len(of_kind))
    folder = tmp_path / "damaged"
    folder.mkdir()
    found = list(outcomes(folder, sample, 0, count))
    unnamed = {each["number"]: each["unnamed"] for each in found if "unnamed" in each}
    assert not unnamed, f"{len(unnamed)} of {count}: {list(unnamed.items())[:5]}"
    assert found[-1]["peak"] < MOST_KILOBYTES
    assert any("named" in each for each in found)  # the damage is felt


def test_damage_is_the_same_for_the_same_seed():
    from tests.support.mutations import mutate

    data = bytes(range(256)) * 8
    assert mutate(data, [3]) == mutate(data, [3])
    assert len({mutate(data, [seed]) for seed in range(50)}) > 45
