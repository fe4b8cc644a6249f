"""Files as phones, screens, browsers and recorders write them. Frames carry their number; see `read_number`."""

import itertools
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from jaxmotion.meter.windows import WindowSpec, decode_windows, plan_windows
from jaxmotion.video import timeline_cache
from jaxmotion.video.decode import BadClipError, latest_time, read_clip, read_size, read_timeline

SIZE = (96, 160)
STRAIGHT = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def read_number(picture):
    """The upper third of a frame is 8 blocks from left to right, bit i of the number is block i."""
    rows, columns = picture.shape[0] // 6, picture.shape[1] // 16
    return sum(
        int(picture[rows - 2 : rows + 2, (2 * i + 1) * columns - 2 : (2 * i + 1) * columns + 2].mean() > 127) << i
        for i in range(8)
    )


def draw(number, size=SIZE):
    picture = np.zeros((*size, 3), np.uint8)
    for bit in range(8):
        picture[: size[0] // 3, bit * size[1] // 8 : (bit + 1) * size[1] // 8] = 255 * (number >> bit & 1)
    picture[size[0] // 3 :, : size[1] // 2] = (200, 40, 10)
    return picture


def film(path, numbers, times=None, size=SIZE, codec="libx264", rate=24, container_options=None, **options):
    """Writes frames with these numbers; at these times, counted in frames, or one after the other."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        options = {"crf": "12", "g": "12", **({"bf": "2"} if codec.startswith(("libx", "mpeg")) else {}), **options}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if "av1" not in codec:
            stream.bit_rate = 4_000_000
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(draw(number, size), "rgb24")
            frame.pts = place if times is None else times[place]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def check_every_start(path, expected, frames=4):
    """A clip at the file's own rate has the frames that the order of the film says, wherever it starts."""
    timeline = read_timeline(path)
    assert len(timeline.pts) == len(expected)
    rate = 1 / float(np.median(np.diff(timeline.seconds)))
    first, latest = float(timeline.seconds[0]), latest_time(timeline, frames, rate)
    for place in range(len(expected) - frames + 1):
        middle = float(timeline.seconds[place]) + 0.25 / rate  # between the frames, so that rounding does not count
        where = min(1.0, (middle - first) / (latest - first))
        clip = read_clip(path, frames, rate, SIZE, where)
        assert [read_number(picture) for picture in clip] == expected[place : place + frames], place


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("av1.mp4", range(48)),
        ("trim_middle.mp4", range(60, 132)),
        ("trim_tail.mp4", range(72)),
        ("preview_first.mkv", range(24)),
        ("thumbnail_first.mp4", range(24)),
        ("b_frames.avi", range(48)),
        ("joined.ts", range(96)),
        ("joined.mpg", range(96)),
        ("delays_of_10_ms.gif", range(10)),
    ],
)
def test_all_frames_in_order_from_any_start(shared_data, name, expected):
    check_every_start(str(shared_data / "faults" / name), list(expected))


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("avi", "libx264", {"bf": "3"}),
        ("avi", "libx264", {"bf": "3", "x264-params": "keyint=15:open-gop=1:scenecut=0"}),
        ("avi", "mpeg4", {}),
        ("mpg", "mpeg1video", {}),
        ("mpg", "mpeg2video", {}),
        ("ts", "libx264", {}),
        ("mp4", "libx265", {"x265-params": "log-level=none:keyint=17:open-gop=1"}),
        ("webm", "libvpx-vp9", {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}),
        ("mkv", "libsvtav1", {"preset": "12"}),
    ],
)
def test_codecs_and_containers_from_any_start(tmp_path, suffix, codec, options):
    rate = 25 if suffix == "mpg" else 24
    check_every_start(film(tmp_path / f"film.{suffix}", range(40), codec=codec, rate=rate, **options), list(range(40)))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_recording_that_begins_with_frames_that_refer_to_none(tmp_path, codec):
    """Switched on in the middle of a broadcast: what is shown before the first key frame cannot be decoded."""
    options = "keyint=12:open-gop=1:scenecut=0:bframes=3" + (":log-level=none" if codec == "libx265" else "")
    path = tmp_path / "film.ts"
    film(path, range(48), codec=codec, **{f"{codec[3:]}-params": options})
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    data = path.read_bytes()
    path.write_bytes(data[: 3 * 188] + data[places[2] :])
    numbers = [read_number(picture) for picture in read_clip(str(path), 8, 24.0, SIZE, 0.0)]
    assert numbers == list(range(numbers[0], numbers[0] + 8))
    assert 20 < numbers[0] < 28
    assert [read_number(picture) for picture in read_clip(str(path), 4, 24.0, SIZE, 1.0)] == [44, 45, 46, 47]


def test_fragments(tmp_path):
    fragmented = {"movflags": "frag_keyframe+empty_moov"}
    check_every_start(film(tmp_path / "a.mp4", range(40), container_options=fragmented), list(range(40)))


def patch_edit(path, media_time, milliseconds):
    """Changes the edit list of an mp4, which says what of the film is shown."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    struct.pack_into(">Ii", data, at, milliseconds, media_time)
    path.write_bytes(data)


def test_trimmed_clips_are_what_is_shown(tmp_path):
    path = tmp_path / "trimmed.mp4"
    film(path, range(96))
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
        (delay,) = {round(2 / 24 / tick)}  # two B-frames
    patch_edit(path, delay + round(30 / 24 / tick), 1500)
    check_every_start(str(path), list(range(30, 66)))


def test_a_trimmed_clip_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "cut.mp4"
    film(path, range(96), container_options={"movflags": "faststart"})
    patch_edit(path, 512 * 12, 1500)
    data = path.read_bytes()
    assert read_timeline(str(path)).damage == ""
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadClipError, match=r"cut off: \d+ of the \d+ frames"):
        read_timeline(str(path))


def test_frames_dropped_in_avi_are_held(tmp_path):
    kept = [n for n in range(60) if n % 7 not in (3, 4)]
    path = film(tmp_path / "dropped.avi", kept, times=kept, codec="mpeg4", bf="0")
    assert [read_number(picture) for picture in read_clip(path, 14, 24.0, SIZE, 0.0)] == [
        *(0, 1, 2, 2, 2, 5, 6),
        *(7, 8, 9, 9, 9, 12, 13),
    ]


def test_an_avi_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "cut.avi"
    film(path, range(48), codec="mpeg4", bf="0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadClipError, match=r"cut off: \d+ of the 48 frames"):
        read_timeline(str(path))


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_recordings_of_two_sizes_are_joined(tmp_path, suffix):
    codec = {"codec": "mpeg2video", "rate": 25} if suffix == "mpg" else {"rate": 25}
    first = film(tmp_path / f"a.{suffix}", range(30), **codec)
    second = film(tmp_path / f"b.{suffix}", range(30, 60), size=(120, 200), **codec)
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
    check_every_start(str(joined), list(range(60)))
    assert read_timeline(str(joined)).end_seconds - read_timeline(str(joined)).seconds[0] == pytest.approx(60 / 25)
    plan = plan_windows(str(joined), WindowSpec(frames=4), 0)
    numbers = [
        [read_number(picture) for picture in clip.video]
        for group in plan.groups
        for clip in decode_windows(str(joined), group, WindowSpec(frames=4, canvas=lambda *_: SIZE)).clips
    ]
    assert all(window[-1] == after[0] for window, after in itertools.pairwise(numbers))  # windows share their edges
    assert sorted({number for window in numbers for number in window}) == list(range(0, 60, 3))


@pytest.mark.parametrize("starts", [(0, 100), (100, 0), (95442, 95442)])
def test_clocks_of_recordings_jump_and_wrap(tmp_path, starts):
    """The clock of a TS has 33 bits at 90 kHz: it begins anew after 95443.7 s."""
    paths = [
        film(tmp_path / f"{n}.ts", range(48 * n, 48 * n + 48), container_options={"output_ts_offset": str(start)})
        for n, start in enumerate(starts)
    ]
    check_every_start(paths[0], list(range(48)))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(Path(path).read_bytes() for path in paths))
    check_every_start(str(joined), list(range(96)))
    timeline = read_timeline(str(joined))
    assert timeline.end_seconds - timeline.seconds[0] == pytest.approx(4.0)


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_other_files_that_are_joined_are_read_whole(tmp_path, suffix):
    codec = {"codec": "mpeg4"} if suffix == "avi" else {}
    paths = [film(tmp_path / f"{start}.{suffix}", range(start, start + 24), **codec) for start in (0, 24)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(Path(path).read_bytes() for path in paths))
    check_every_start(str(joined), list(range(48)))


@pytest.mark.parametrize("suffix", ["mp4", "flv"])
def test_joined_files_of_which_one_would_be_lost_are_refused(tmp_path, suffix):
    paths = [film(tmp_path / f"{start}.{suffix}", range(start, start + 24)) for start in (0, 24)]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(Path(path).read_bytes() for path in paths))
    with pytest.raises(BadClipError, match="several videos joined end to end, of which players show the first"):
        read_clip(str(joined), 4, 8.0, SIZE, 0.0)
    check_every_start(paths[1], list(range(24, 48)))


def test_a_lost_packet_of_a_recording_costs_what_depends_on_it(tmp_path):
    path = tmp_path / "loss.ts"
    noise = np.random.default_rng(0).integers(0, 256, (48, *SIZE, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "24", "bf": "0", "x264-params": "scenecut=0"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    at = len(data) // 4 // 188 * 188
    while data[at + 1] & 0x40 or data[at + 1] & 31 != 1 or data[at + 2]:
        at += 188
    path.write_bytes(data[:at] + data[at + 188 :])
    with pytest.raises(BadClipError, match="cannot be decoded"):
        read_clip(str(path), 4, 24.0, SIZE, 0.45)
    assert len(read_clip(str(path), 4, 24.0, SIZE, 0.9)) == 4


@pytest.mark.parametrize(
    ("name", "matrix", "shown"),
    [
        ("mirror_h", (-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ("mirror_v", (1, 0, 0, -1), lambda picture: picture[::-1]),
        ("transpose", (0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
        ("clockwise", (0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ("half turn", (-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ("anticlockwise", (0, -1, 1, 0), lambda picture: np.rot90(picture)),
        ("transverse", (0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
    ],
)
def test_track_matrices(shared_data, tmp_path, name, matrix, shown):
    path = tmp_path / "turned.mp4"
    film(path, [0b00100111] * 4)
    stored = read_clip(str(path), 1, 24.0, SIZE, 0.0)[0].astype(int)
    data = path.read_bytes()
    at = data.index(STRAIGHT, data.index(b"tkhd"))
    a, b, c, d = (65536 * each for each in matrix)
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    expected = shown(stored)
    assert read_size(str(path)) == expected.shape[:2]
    assert np.abs(read_clip(str(path), 1, 24.0, expected.shape[:2], 0.0)[0] - expected).max() <= 2
    if (shared_data / "faults" / f"{name}.mp4").exists():
        given = str(shared_data / "faults" / f"{name}.mp4")
        with av.open(given) as container:
            stored = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        assert np.abs(read_clip(given, 1, 24.0, expected.shape[:2], 0.0)[0] - shown(stored)).mean() < 3


def two_streams(path, sizes, counts, default):
    with av.open(str(path), "w") as container:
        streams = []
        for size in sizes:
            stream = container.add_stream("libx264", rate=24, options={"g": "12", "bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = Disposition.default if len(streams) == default else Disposition(0)
            streams.append(stream)
        for place in range(max(counts)):
            for stream, size, count in zip(streams, sizes, counts, strict=True):
                if place < count:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(place, size), "rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(
    ("counts", "default", "shown"), [((24, 24), 1, 1), ((24, 24), 0, 0), ((1, 24), 0, 1), ((24, 1), 1, 0)]
)
def test_of_several_streams_the_default_one_that_moves(tmp_path, suffix, counts, default, shown):
    sizes = ((48, 80), (96, 160))
    path = two_streams(tmp_path / f"two.{suffix}", sizes, counts, default)
    assert read_size(path) == sizes[shown]
    check_every_start(path, list(range(24)))


def test_a_frame_is_shown_until_the_next_one_comes(shared_data, tmp_path):
    path = str(shared_data / "faults" / "held_frames.mp4")
    numbers = [read_number(picture) for picture in read_clip(path, 20, 8.0, SIZE, 0.0)]
    assert numbers == [0] * 16 + [1, 4, 8, 12]  # frames 1.. come 30 a second from 2 s on
    times = [0, 3, 4, 48, 60, 61]
    slow = film(tmp_path / "slow.mkv", range(6), times=times, bf="0")
    clip = read_clip(slow, 24, 10.0, SIZE, 0.0)
    assert [read_number(picture) for picture in clip] == [0, 0, *[2] * 18, *[3] * 4]


def test_animated_pictures_last_as_in_browsers(shared_data, tmp_path):
    long = read_timeline(str(shared_data / "faults" / "long_last_frame.gif"))
    assert long.end_seconds == pytest.approx(3.9)
    assert plan_windows(str(shared_data / "faults" / "long_last_frame.gif"), WindowSpec(), 0).seconds == pytest.approx(
        3.9
    )
    read_clip(str(shared_data / "faults" / "long_last_frame.gif"), 31, 8.0, SIZE, 0.0)
    with pytest.raises(BadClipError, match="It can give 32 frame"):
        read_clip(str(shared_data / "faults" / "long_last_frame.gif"), 33, 8.0, SIZE, 0.0)
    pictures = [Image.fromarray(draw(number)) for number in range(6)]
    for delays, length in (([0] * 6, 0.6), ([10] * 6, 0.6), ([20] * 6, 0.12), ([50, 10, 50, 10, 50, 500], 0.85)):
        path = tmp_path / f"{sum(delays)}.gif"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays, loop=0)
        timeline = read_timeline(str(path))
        assert timeline.end_seconds == pytest.approx(length), delays
        assert len(timeline.pts) == 6
    ends = np.cumsum([50, 100, 50, 100, 50, 500]) / 1000
    assert read_timeline(str(tmp_path / "670.gif")).seconds == pytest.approx(np.array([0, *ends[:-1]]))
    numbers = [read_number(picture) for picture in read_clip(str(tmp_path / "670.gif"), 8, 10.0, SIZE, 0.0)]
    assert numbers == [0, 1, 3, 4, 5, 5, 5, 5]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=[100] * 5 + [700])
    assert read_timeline(str(tmp_path / "a.png")).end_seconds == pytest.approx(1.2)


def test_animated_avif_moves(tmp_path):
    pictures = [Image.fromarray(draw(number)) for number in range(8)]
    try:
        pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=100)
    except (KeyError, OSError):
        pytest.skip("this Pillow writes no AVIF")
    check_every_start(str(tmp_path / "a.avif"), list(range(8)))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_raw_streams_say_that_they_cannot_be_searched(tmp_path, codec):
    path = film(tmp_path / ("raw.h264" if codec == "libx264" else "raw.hevc"), range(12), codec=codec)
    with pytest.raises(BadClipError, match="carries no times and cannot be searched; put it into a container first"):
        read_clip(path, 2, 8.0, SIZE, 0.0)


def test_packets_are_read_once_in_a_process(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    film(path, range(24))
    reads = []
    read_packets = timeline_cache.read_packets
    monkeypatch.setattr(timeline_cache, "read_packets", lambda *args: reads.append(1) or read_packets(*args))
    for where in (0.0, 0.5, 1.0):
        read_clip(str(path), 4, 24.0, SIZE, where)
    read_timeline(str(path))
    assert len(reads) == 1
    film(path, range(100, 148))
    assert read_number(read_clip(str(path), 1, 24.0, SIZE, 1.0)[0]) == 147
    assert len(reads) == 2


def test_kept_timelines_make_room(tmp_path):
    paths = [film(tmp_path / f"{number}.mp4", range(6)) for number in range(3)]
    timelines = [read_timeline(path) for path in paths]
    cache = timeline_cache.TimelineCache(most_bytes=2 * timelines[0].nbytes)
    for path, timeline in zip(paths[:2], timelines, strict=False):
        cache.keep(path, timeline)
    cache.get(paths[0])
    cache.keep(paths[2], timelines[2])
    assert [cache.get(path) is not None for path in paths] == [True, False, True]
