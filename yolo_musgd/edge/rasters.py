"""Reads and writes images with nothing but numpy and zlib: PNG, PPM/PGM, BMP; JPEG through jpeg.py.

The fallback for a board that has neither OpenCV nor Pillow. Images are uint8 BGR of shape (height, width, 3).
"""

import struct
import zlib
from typing import List, Tuple

import numpy as np

from .errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples per pixel
MAX_PIXELS = 1 << 27  # a hostile header must not allocate gigabytes


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise UserError("an image of {} x {} pixels is not read".format(width, height))


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    by_left, by_up, by_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner


def _unfilter(raw: bytes, height: int, row_bytes: int, step: int) -> np.ndarray:
    """Undo PNG's row filters; ``step`` is the number of bytes per pixel."""
    if len(raw) < height * (row_bytes + 1):
        raise UserError("truncated PNG")
    out = np.zeros((height, row_bytes), np.uint8)
    above = np.zeros(row_bytes, np.uint8)
    for y in range(height):
        start = y * (row_bytes + 1)
        kind = raw[start]
        line = np.frombuffer(raw, np.uint8, row_bytes, start + 1).copy()
        if kind == 1:  # Sub: running sums per channel, modulo 256
            for channel in range(step):
                line[channel::step] = np.cumsum(line[channel::step], dtype=np.uint8)
        elif kind == 2:  # Up
            line += above
        elif kind in (3, 4):  # Average, Paeth: each byte needs the one before it
            values, up = line.tolist(), above.tolist()
            for x in range(row_bytes):
                left = values[x - step] if x >= step else 0
                if kind == 3:
                    values[x] = (values[x] + ((left + up[x]) >> 1)) & 255
                else:
                    values[x] = (values[x] + _paeth(left, up[x], up[x - step] if x >= step else 0)) & 255
            line = np.array(values, np.uint8)
        elif kind != 0:
            raise UserError("PNG with an unknown filter {}".format(kind))
        out[y] = above = line
    return out


def _chunks(data: bytes) -> List[Tuple[bytes, bytes]]:
    at, out = len(_PNG), []
    while at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        out.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return out


def decode_png(data: bytes) -> np.ndarray:
    """Decode an 8-bit, not interlaced PNG (grey, RGB, palette, with or without alpha, which is dropped)."""
    chunks = _chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise UserError("PNG without a header")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    _check_size(width, height)
    if depth != 8 or interlace or colour not in _CHANNELS:
        raise UserError("this kind of PNG (depth {}, colour {}) needs Pillow or OpenCV".format(depth, colour))
    step = _CHANNELS[colour]
    try:
        raw = zlib.decompressobj().decompress(
            b"".join(body for kind, body in chunks if kind == b"IDAT"), height * (width * step + 1)
        )
    except zlib.error as error:
        raise UserError("damaged PNG: {}".format(error))
    pixels = _unfilter(raw, height, width * step, step).reshape(height, width, step)
    if colour == 3:
        palette = np.zeros((256, 3), np.uint8)
        entries = np.frombuffer(dict(chunks).get(b"PLTE", b""), np.uint8)
        palette[: len(entries) // 3] = entries[: len(entries) // 3 * 3].reshape(-1, 3)
        return np.ascontiguousarray(palette[pixels[:, :, 0]][:, :, ::-1])
    if step < 3:
        return np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 BGR (h, w, 3) as a PNG, with the row filter that subtracts the row above."""
    height, width = image.shape[:2]
    rgb = np.ascontiguousarray(image[:, :, ::-1]).reshape(height, width * 3)
    rows = np.full((height, width * 3 + 1), 2, np.uint8)
    rows[0, 1:] = rgb[0]
    rows[1:, 1:] = rgb[1:] - rgb[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    out = [_PNG]
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")):
        out.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) & 0xFFFFFFFF))
    return b"".join(out)


def decode_pnm(data: bytes) -> np.ndarray:
    """Decode a binary PGM (P5) or PPM (P6) of 8 bits."""
    fields: List[int] = []
    at = 2
    while len(fields) < 3:
        while at < len(data) and data[at : at + 1].isspace():
            at += 1
        if data[at : at + 1] == b"#":
            at = data.find(b"\n", at) + 1 or len(data)
            continue
        start = at
        while at < len(data) and data[at : at + 1].isdigit():
            at += 1
        if start == at:
            raise UserError("damaged PPM header")
        fields.append(int(data[start:at]))
    width, height, top = fields
    _check_size(width, height)
    channels = 3 if data[:2] == b"P6" else 1
    if top != 255 or len(data) < at + 1 + width * height * channels:
        raise UserError("truncated PPM, or not 8 bits")
    pixels = np.frombuffer(data, np.uint8, width * height * channels, at + 1).reshape(height, width, channels)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if channels == 3 else np.repeat(pixels, 3, axis=2)


def decode_bmp(data: bytes) -> np.ndarray:
    """Decode an uncompressed BMP of 24 or 32 bits."""
    if len(data) < 54:
        raise UserError("truncated BMP")
    start, _, width, height, _, bits, packing = struct.unpack("<IIiiHHI", data[10:34])
    _check_size(width, abs(height))
    stride = (width * bits // 8 + 3) // 4 * 4
    if bits not in (24, 32) or packing not in (0, 3) or len(data) < start + stride * abs(height):
        raise UserError("this kind of BMP ({} bits) needs Pillow or OpenCV, or it is truncated".format(bits))
    rows = np.frombuffer(data, np.uint8, stride * abs(height), start).reshape(abs(height), stride)
    pixels = rows[:, : width * bits // 8].reshape(abs(height), width, bits // 8)[:, :, :3]
    return np.ascontiguousarray(pixels[::-1] if height > 0 else pixels)


def decode(data: bytes) -> np.ndarray:
    """Decode an image file's bytes to uint8 BGR (h, w, 3).

    Raises:
        UserError: Damaged, or a kind that needs OpenCV or Pillow.
    """
    try:
        if data[:8] == _PNG:
            return decode_png(data)
        if data[:2] in (b"P5", b"P6"):
            return decode_pnm(data)
        if data[:2] == b"BM":
            return decode_bmp(data)
        if data[:2] == b"\xff\xd8":
            from .jpeg import decode_jpeg

            return decode_jpeg(data)
    except (IndexError, struct.error, ValueError, KeyError, OverflowError) as error:
        raise UserError("damaged image: {}".format(error))
    raise UserError("unknown image format; without OpenCV and Pillow only JPEG, PNG, PPM and BMP are read")
