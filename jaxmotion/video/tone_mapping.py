"""HDR (HLG, PQ) and BT.2020 pictures brought to SDR, as a viewer with an SDR screen sees them.

HDR reference white, 203 nits, becomes SDR white: what was graded for SDR and stored as HDR comes back as it was.
Brighter light goes into a short shoulder, and colours outside BT.709 are clipped.

Not specified in the papers; we use: all of it.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
from av import VideoFrame
from jaxtyping import Float, UInt8, UInt16

from jaxmotion.video.container import BadClipError

REFERENCE_WHITE = 203.0
"""Nits of SDR white in HDR. Source: ITU-R BT.2408-7, table 1."""
PEAK = 1000.0
"""Nits of the brightest HLG signal, on a screen with the next as its gamma. Source: ITU-R BT.2100-2, table 5."""
SYSTEM_GAMMA = 1.2
SCREEN_GAMMA = 2.4
"""Of an SDR screen. Source: ITU-R BT.1886."""
SHOULDER = 0.95
"""SDR signal above which brightness is compressed, so that reference white becomes 0.98."""

WHITE = 255 * 256
"""The largest signal that FFmpeg's scaler gives in 16 bits when it converts from Y'CbCr."""

PQ, HLG = 16, 18
UNSPECIFIED = 2
BT709, BT2020, P3 = 1, 9, 12
UNREADABLE = {
    8: "YCgCo",
    10: "BT.2020 of constant luminance",
    11: "Y'D'zD'x",
    12: "luma and chroma by the primaries",
    13: "constant luminance by the primaries",
    14: "ICtCp",
    15: "IPT (Dolby Vision profile 5)",
}
"""Colour spaces that FFmpeg's scaler refuses or takes for others. All numbers here: ITU-T H.273, tables 2 to 4."""

LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Source: ITU-R BT.2020-2, table 4."""
TO_BT709 = {
    BT709: np.eye(3, dtype=np.float32),
    BT2020: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
        np.float32,
    ),
    P3: np.array(
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32
    ),
}
"""From linear light of these primaries to that of BT.709. Source: ITU-R BT.2087-0, section 4, and SMPTE EG 432-1."""

Signal = UInt16[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class ToneMap:
    """Conversion of HDR or BT.2020 pictures to SDR."""

    transfer: int
    """`PQ`, `HLG`, or anything else for SDR."""
    primaries: int

    def apply(self, signal: Signal) -> UInt8[np.ndarray, "H W 3"]:
        """Returns full-range R'G'B' of 16 bits as SDR of 8 bits."""
        light = _linear(self.transfer)[signal]
        if self.transfer == HLG:
            light *= (light @ LUMINANCE)[..., None] ** (SYSTEM_GAMMA - 1)  # BT.2100-2, table 5: the OOTF
        if self.transfer in (PQ, HLG):
            light *= (PEAK if self.transfer == HLG else 1.0) / REFERENCE_WHITE
        shown = np.maximum(light @ TO_BT709[self.primaries].T, 0.0) ** (1 / SCREEN_GAMMA)
        if self.transfer in (PQ, HLG):
            above = np.maximum(shown - SHOULDER, 0.0) / (1 - SHOULDER)
            shown = np.minimum(shown, SHOULDER) + (1 - SHOULDER) * -np.expm1(-above)
        return np.rint(255.0 * np.minimum(shown, 1.0)).astype(np.uint8)


def tone_map_of(frame: VideoFrame) -> ToneMap | None:
    """Returns the tone map of a frame; None for SDR of BT.709, which needs none.

    Raises:
        BadClipError: its colours are in a space that cannot be converted.
    """
    space, transfer, primaries = int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries)
    if space in UNREADABLE:
        raise BadClipError(
            f"its colours are stored as {UNREADABLE[space]}, which is not converted; convert it to SDR or HLG first"
        )
    if transfer in (PQ, HLG):
        return ToneMap(transfer, primaries if primaries in TO_BT709 else BT2020)
    return ToneMap(transfer, BT2020) if primaries == BT2020 else None


@cache
def _linear(transfer: int) -> Float[np.ndarray, " 65536"]:
    """Returns the light of every signal of 16 bits: in nits for PQ, else from 0 to 1."""
    signal = np.arange(65536) / WHITE
    if transfer == PQ:  # BT.2100-2, table 4: the EOTF
        root = signal ** (1 / 78.84375)
        light = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    elif transfer == HLG:  # BT.2100-2, table 5: the inverse OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**SCREEN_GAMMA
    return light.astype(np.float32)
