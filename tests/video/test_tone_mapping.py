import av
import numpy as np
import pytest

from jaxmotion.video.decode import BadClipError, read_clip
from jaxmotion.video.tone_mapping import BT709, BT2020, HLG, P3, PQ, WHITE, ToneMap, tone_map_of

COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (150, 75, 0), (70, 130, 180), *((grey,) * 3 for grey in range(0, 256, 51))]
)
FROM_BT709 = {  # ITU-R BT.2087-0, section 2, and SMPTE EG 432-1
    BT2020: np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]),
    P3: np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]]),
    BT709: np.eye(3),
}


def encode(colours, transfer, primaries):
    """Stores SDR colours as HDR whose reference white is 203 nits; the inverse of BT.2100's tables 4 and 5."""
    nits = 203 * (colours / 255) ** 2.4 @ FROM_BT709[primaries].T
    if transfer == PQ:
        power = (nits / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    luminance = np.maximum(nits @ [0.2627, 0.678, 0.0593], 1e-9)[:, None] / 1000
    scene = nits / 1000 * luminance ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("primaries", [BT2020, P3, BT709])
def test_sdr_that_was_stored_as_hdr_comes_back(transfer, primaries):
    signal = np.rint(WHITE * encode(COLOURS, transfer, primaries)).astype(np.uint16)[None]
    found = ToneMap(transfer, primaries).apply(signal)[0].astype(int)
    expected = np.where(COLOURS > 242, 250, COLOURS)  # the shoulder leaves room for what is brighter than white
    assert np.abs(found - expected).max() <= 6  # of saturated colours, whose small parts have few codes
    assert np.abs(found[3:] - expected[3:]).max() <= 2


def test_highlights_stay_above_white():
    greys = [WHITE * encode(np.full((1, 3), 255.0), PQ, BT2020)[0, 0], *(WHITE * np.array([0.6, 0.65, 0.75, 1.0]))]
    signal = np.repeat(np.array(greys)[None, :, None], 3, -1).astype(np.uint16)
    found = ToneMap(PQ, BT2020).apply(signal)[0, :, 0].tolist()
    assert found[0] == 250
    assert found == sorted(found)
    assert found[1] > 250
    assert found[-1] == 255


def test_an_hlg_film(shared_data):
    clip = read_clip(str(shared_data / "faults" / "hlg.mp4"), 2, 8.0, (96, 160), 0.0)
    assert np.abs(clip[0, 85, 10::20, 1] - np.array([0, 36, 73, 109, 146, 182, 219, 250.0])).max() <= 2
    assert np.abs(clip[0, 48, 10] - np.array([250.0, 0, 0])).max() <= 6
    assert np.abs(clip[0, 48, 150] - np.array([60.0, 120, 180])).max() <= 4


@pytest.mark.parametrize("full", [False, True])
def test_bt709_of_both_ranges_keeps_its_colours(tmp_path, full):
    path = str(tmp_path / "sdr.mp4")
    picture = np.repeat(np.repeat(COLOURS[None, :8].astype(np.uint8), 32, 0), 16, 1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 32, 128, "yuv420p"
        context = stream.codec_context
        context.color_range = 2 if full else 1
        context.colorspace = context.color_primaries = context.color_trc = 1
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
            format="yuv420p", dst_colorspace=1, dst_color_range=2 if full else 1
        )
        for _ in range(3):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_clip(path, 1, 24.0, (32, 128), 0.0)
    assert np.abs(clip[0, 16, 8::16].astype(int) - COLOURS[:8]).max() <= 5


def test_colours_that_cannot_be_converted_are_named():
    class Frame:
        colorspace, color_trc, color_primaries = 15, PQ, BT2020

    with pytest.raises(BadClipError, match="Dolby Vision profile 5"):
        tone_map_of(Frame())
