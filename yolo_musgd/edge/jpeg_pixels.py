"""The arithmetic half of the JPEG decoder: inverse DCT, chroma upsampling, colour conversion, on whole planes in numpy.

All of it is integer and follows libjpeg's accurate path (Loeffler-Ligtenberg-Moschytz DCT with 13-bit constants,
triangle filter for chroma, 16-bit colour factors), so the pixels equal those of OpenCV and Pillow to the last bit.
"""

import numpy as np

_BITS = 13  # fraction bits of the DCT constants: round(x * 8192)


def _pass(x: np.ndarray, shift: int) -> np.ndarray:
    """One-dimensional inverse DCT along axis 1 of (n, 8, m), int32, rounded and shifted down by ``shift`` bits."""
    c2, c6 = x[:, 2], x[:, 6]
    common = (c2 + c6) * 4433
    low, high = common - c6 * 15137, common + c2 * 6270
    total, difference = (x[:, 0] + x[:, 4]) << _BITS, (x[:, 0] - x[:, 4]) << _BITS
    even = (total + high, difference + low, difference - low, total - high)
    o7, o5, o3, o1 = x[:, 7], x[:, 5], x[:, 3], x[:, 1]
    shared = (o7 + o3 + o5 + o1) * 9633
    a, b = (o7 + o1) * -7373, (o5 + o3) * -20995
    c, d = (o7 + o3) * -16069 + shared, (o5 + o1) * -3196 + shared
    odd = (o1 * 12299 + a + d, o3 * 25172 + b + c, o5 * 16819 + b + d, o7 * 2446 + a + c)
    out = np.empty_like(x)
    half = 1 << (shift - 1)
    for k in range(4):
        out[:, k] = (even[k] + odd[k] + half) >> shift
        out[:, 7 - k] = (even[k] - odd[k] + half) >> shift
    return out


def inverse_dct(blocks: np.ndarray) -> np.ndarray:
    """Turn dequantized coefficients (n, 8, 8), int32, into samples (n, 8, 8), uint8; columns first, then rows."""
    columns = _pass(blocks, _BITS - 2)
    rows = _pass(np.ascontiguousarray(columns.transpose(0, 2, 1)), _BITS + 5).transpose(0, 2, 1)
    samples: np.ndarray = np.clip(rows + 128, 0, 255).astype(np.uint8)
    return samples


def assemble(samples: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Lay (rows * columns, 8, 8) blocks out as a plane (rows * 8, columns * 8)."""
    plane: np.ndarray = samples.reshape(rows, columns, 8, 8).swapaxes(1, 2).reshape(rows * 8, columns * 8)
    return plane


def _double_width(plane: np.ndarray) -> np.ndarray:
    """Triangle filter along x: 3/4 of the near sample and 1/4 of the next; the outermost samples stay."""
    wide = plane.astype(np.int32)
    before = np.concatenate((wide[:, :1], wide[:, :-1]), axis=1)
    after = np.concatenate((wide[:, 1:], wide[:, -1:]), axis=1)
    out = np.empty((plane.shape[0], plane.shape[1] * 2), np.uint8)
    out[:, 0::2] = (3 * wide + before + 1) >> 2
    out[:, 1::2] = (3 * wide + after + 2) >> 2
    return out


def _double_both(plane: np.ndarray) -> np.ndarray:
    """Triangle filter along y, then x, rounded once at the end (in sixteenths)."""
    tall = plane.astype(np.int32)
    above = np.concatenate((tall[:1], tall[:-1]))
    below = np.concatenate((tall[1:], tall[-1:]))
    out = np.empty((plane.shape[0] * 2, plane.shape[1] * 2), np.uint8)
    for parity, other in ((0, above), (1, below)):
        line = 3 * tall + other
        before = np.concatenate((line[:, :1], line[:, :-1]), axis=1)
        after = np.concatenate((line[:, 1:], line[:, -1:]), axis=1)
        out[parity::2, 0::2] = (3 * line + before + 8) >> 4
        out[parity::2, 1::2] = (3 * line + after + 7) >> 4
    return out


def upsample(plane: np.ndarray, across: int, down: int) -> np.ndarray:
    """Enlarge a chroma plane by whole factors, smoothly for 2x1 and 2x2 as libjpeg does, else by repetition."""
    if (across, down) == (2, 1) and plane.shape[1] > 2:
        return _double_width(plane)
    if (across, down) == (2, 2) and plane.shape[1] > 2:
        return _double_both(plane)
    return np.repeat(np.repeat(plane, down, axis=0), across, axis=1)


def ycc_to_bgr(y: np.ndarray, cb: np.ndarray, cr: np.ndarray) -> np.ndarray:
    """Convert full-range YCbCr planes (JFIF) to BGR (h, w, 3); factors 1.402, 1.772, 0.34414, 0.71414 in 1/65536."""
    luma = y.astype(np.int32)
    blue, red = cb.astype(np.int32) - 128, cr.astype(np.int32) - 128
    out = np.empty(y.shape + (3,), np.int32)
    out[:, :, 0] = luma + ((116130 * blue + 32768) >> 16)
    out[:, :, 1] = luma + ((-22554 * blue - 46802 * red + 32768) >> 16)
    out[:, :, 2] = luma + ((91881 * red + 32768) >> 16)
    return np.clip(out, 0, 255).astype(np.uint8)


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright by its EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
