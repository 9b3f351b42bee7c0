"""A 64-bit perceptual hash: near-identical pictures differ in few of its bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE = 32  # of the grey thumbnail
_LOW = 8  # lowest frequencies kept, in each direction
_REDUCING_GAP = 4.0  # block averages leave at least this many times _SIDE for the filter
_DCT = 2.0 * np.cos(np.pi * np.arange(_LOW)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


def phash(image: Image.Image, *, box: tuple[float, float, float, float] | None = None) -> str:
    """The hash of an RGB or grey image (or of what is in `box`) as 16 hex digits, first bit mean brightness.

    Grey, 32 x 32 (Lanczos), DCT-II, the 8 x 8 lowest frequencies, one bit each: above their median or not
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Coefficients are
    rounded to three decimals first, so that the hash of a picture of one colour or of exact symmetry does not
    depend on a machine's last bit. Else equal to `imagehash.phash` for pictures under 256 pixels; larger ones
    are averaged over blocks before the Lanczos filter, a quarter of the time for 0.25 bits of difference
    (mean; 0.8 ms instead of 2.9 at 1024 x 768).

    >>> phash(Image.new("RGB", (40, 30), "red"))
    '8000000000000000'
    """
    grey = image.convert("L").resize(
        (_SIDE, _SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP
    )
    low = np.round(_DCT @ np.asarray(grey, dtype=np.float64) @ _DCT.T, 3)
    return np.packbits(low > np.median(low)).tobytes().hex()
