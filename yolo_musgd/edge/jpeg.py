"""A baseline JPEG decoder in Python and numpy: markers, Huffman codes, coefficients (ITU-T T.81).

For a board without OpenCV and Pillow; slow (about half a second for 640 x 480 on a desktop), exact (see jpeg_pixels).
Progressive, arithmetic-coded, 12-bit and CMYK files are refused with a line that says what to install.
"""

import re
import struct
from typing import Dict, List, Optional, Tuple

import numpy as np

from . import jpeg_pixels
from .errors import UserError

_ZIGZAG = (
    "0 1 8 16 9 2 3 10 17 24 32 25 18 11 4 5 12 19 26 33 40 48 41 34 27 20 13 6 7 14 21 28 35 42 49 56 57 50 43 36 29 "
    "22 15 23 30 37 44 51 58 59 52 45 38 31 39 46 53 60 61 54 47 55 62 63"
)
ZIGZAG = [int(word) for word in _ZIGZAG.split()] + [63] * 16  # a corrupt run may step past the end
_RESTART = re.compile(b"\xff[\xd0-\xd7]")
_MARKER = re.compile(b"\xff+[\x01-\xcf\xd8-\xfe]")
MAX_PIXELS = 1 << 27


class _Component:
    """One colour plane: sampling factors, tables and its coefficients."""

    def __init__(self, across: int, down: int, table: int) -> None:
        self.across, self.down, self.table = across, down, table
        self.width = self.height = self.columns = self.rows = 0  # samples; blocks, padded to whole MCUs
        self.dc = self.ac = 0
        self.coefficients: List[int] = []


class _Frame:
    """What the headers say."""

    def __init__(self) -> None:
        self.width = self.height = self.interval = 0
        self.orientation = 1
        self.adobe: Optional[int] = None
        self.quant: Dict[int, np.ndarray] = {}
        self.huffman: Dict[int, List[int]] = {}
        self.components: Dict[int, _Component] = {}


def _lookup(counts: bytes, symbols: bytes) -> List[int]:
    """Build a table from the next 16 bits to ``length << 8 | symbol``; 0 marks a code that does not exist."""
    table = np.zeros(1 << 16, np.int32)
    code = used = 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            start = code << (16 - length)
            table[start : start + (1 << (16 - length))] = length << 8 | symbols[used]
            code += 1
            used += 1
        code <<= 1
    out: List[int] = table.tolist()
    return out


def _read_tables(frame: _Frame, marker: int, body: bytes) -> None:
    at = 0
    while at < len(body):
        head = body[at]
        at += 1
        if marker == 0xDB:  # quantization: 64 entries of 8 or 16 bits, in zigzag order
            size = 128 if head >> 4 else 64
            values = np.frombuffer(body[at : at + size], ">u2" if head >> 4 else np.uint8)
            table = np.zeros(64, np.int32)
            table[ZIGZAG[:64]] = values
            frame.quant[head & 15] = table
            at += size
        else:  # Huffman
            counts = body[at : at + 16]
            total = sum(counts)
            frame.huffman[head] = _lookup(counts, body[at + 16 : at + 16 + total])
            at += 16 + total


def _read_frame(frame: _Frame, body: bytes) -> None:
    depth, frame.height, frame.width, count = struct.unpack(">BHHB", body[:6])
    if depth != 8 or count not in (1, 3):
        raise UserError("a JPEG of {} bits and {} colours needs Pillow or OpenCV".format(depth, count))
    if frame.width < 1 or frame.height < 1 or frame.width * frame.height > MAX_PIXELS:
        raise UserError("a JPEG of {} x {} pixels is not read".format(frame.width, frame.height))
    for k in range(count):
        name, sampling, table = body[6 + 3 * k : 9 + 3 * k]
        frame.components[name] = _Component(sampling >> 4, sampling & 15, table)
    parts = list(frame.components.values())
    if len(parts) != count or any(not 1 <= part.across <= 4 or not 1 <= part.down <= 4 for part in parts):
        raise UserError("damaged JPEG: sampling factors")
    if count == 1:
        parts[0].across = parts[0].down = 1  # with one component the factors have no meaning
    across, down = max(part.across for part in parts), max(part.down for part in parts)
    for part in parts:
        part.width = -(-frame.width * part.across // across)
        part.height = -(-frame.height * part.down // down)
        part.columns = -(-frame.width // (8 * across)) * part.across
        part.rows = -(-frame.height // (8 * down)) * part.down
        part.coefficients = [0] * (64 * part.columns * part.rows)


def _read_orientation(frame: _Frame, body: bytes) -> None:
    """Find the orientation (tag 274) in the first directory of an EXIF segment."""
    if body[:6] != b"Exif\0\0" or body[6:8] not in (b"II", b"MM"):
        return
    tiff, order = body[6:], "<" if body[6:8] == b"II" else ">"
    try:
        start = struct.unpack(order + "I", tiff[4:8])[0]
        for k in range(struct.unpack(order + "H", tiff[start : start + 2])[0]):
            tag, _, _, value = struct.unpack(order + "HHIH", tiff[start + 2 + 12 * k : start + 12 + 12 * k])
            if tag == 274 and 1 <= value <= 8:
                frame.orientation = value
    except struct.error:
        return  # damaged EXIF: the picture itself may be fine


def _block_order(frame: _Frame, parts: List[_Component]) -> List[Tuple[_Component, List[int]]]:
    """Return, for each block position within an MCU, its component and the first coefficient of every such block."""
    if len(parts) == 1:  # a scan of one component counts only the blocks that hold image
        part = parts[0]
        rows, columns = -(-part.height // 8), -(-part.width // 8)
        index = np.arange(rows)[:, None] * part.columns + np.arange(columns)[None]
        return [(part, (index.ravel() * 64).tolist())]
    order = []
    for part in parts:
        for y in range(part.down):
            for x in range(part.across):
                index = np.arange(y, part.rows, part.down)[:, None] * part.columns
                index = index + np.arange(x, part.columns, part.across)[None]
                order.append((part, (index.ravel() * 64).tolist()))
    return order


def _read_scan(frame: _Frame, header: bytes, data: bytes) -> None:
    parts = []
    for k in range(header[0]):
        part = frame.components[header[1 + 2 * k]]
        part.dc, part.ac = header[2 + 2 * k] >> 4, 16 | (header[2 + 2 * k] & 15)
        parts.append(part)
    order = _block_order(frame, parts)
    total = len(order[0][1])
    step = frame.interval or total
    segments = _RESTART.split(data)
    for number, first in enumerate(range(0, total, step)):
        if number >= len(segments):
            break  # cut short: the rest stays grey, as other decoders do
        _read_segment(frame, order, segments[number].replace(b"\xff\x00", b"\xff"), first, min(first + step, total))


def _read_segment(frame: _Frame, order: List[Tuple[_Component, List[int]]], data: bytes, first: int, last: int) -> None:
    """Decode the MCUs [first, last) of one restart interval into the components' coefficients."""
    owners = [part for part, _ in order]
    plan = [
        (owners.index(part), frame.huffman[part.dc], frame.huffman[part.ac], part.coefficients, bases)
        for part, bases in order
    ]  # the blocks of a component share one DC predictor: that of its first slot
    previous = [0] * len(order)
    data += b"\0" * 16
    size, at, buffer, bits = len(data), 0, 0, 0
    zigzag = ZIGZAG
    for mcu in range(first, last):
        for slot, dc_table, ac_table, coefficients, bases in plan:
            base, k, table = bases[mcu], 0, dc_table
            while k < 64:
                if bits < 32:
                    if at >= size:
                        return
                    buffer = (buffer & ((1 << bits) - 1)) << 64 | int.from_bytes(
                        data[at : at + 8].ljust(8, b"\0"), "big"
                    )
                    at += 8
                    bits += 64
                entry = table[(buffer >> (bits - 16)) & 0xFFFF]
                if not entry:
                    raise UserError("damaged JPEG: unknown Huffman code")
                bits -= entry >> 8
                length = entry & 15
                value = 0
                if length:
                    bits -= length
                    value = (buffer >> bits) & ((1 << length) - 1)
                    if value < 1 << (length - 1):
                        value -= (1 << length) - 1
                if k == 0:
                    previous[slot] += value
                    coefficients[base] = previous[slot]
                    k, table = 1, ac_table
                elif length:
                    k += (entry >> 4) & 15
                    coefficients[base + zigzag[k]] = value
                    k += 1
                elif entry & 0xFF == 0xF0:
                    k += 16
                else:
                    break


def _parse(data: bytes) -> _Frame:
    frame, at = _Frame(), 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise UserError("damaged JPEG: no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker in (0xDB, 0xC4):
            _read_tables(frame, marker, body)
        elif marker in (0xC0, 0xC1):
            _read_frame(frame, body)
        elif 0xC2 <= marker <= 0xCF and marker != 0xCC:
            raise UserError("a progressive or lossless JPEG needs Pillow or OpenCV: python3 -m pip install pillow")
        elif marker == 0xDD:
            frame.interval = struct.unpack(">H", body[:2])[0]
        elif marker == 0xE1:
            _read_orientation(frame, body)
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            frame.adobe = body[11]
        elif marker == 0xDA:
            following = _MARKER.search(data, at)
            end = following.start() if following else len(data)
            _read_scan(frame, body, data[at:end])
            at = end
    return frame


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a baseline JPEG file to uint8 BGR (height, width, 3), upright by its EXIF orientation.

    Raises:
        UserError: Damaged, or a kind of JPEG that needs Pillow or OpenCV.
    """
    frame = _parse(data)
    if not frame.components or not frame.huffman:
        raise UserError("damaged JPEG: no picture in it")
    parts = list(frame.components.values())
    across, down = max(part.across for part in parts), max(part.down for part in parts)
    planes = []
    for part in parts:
        blocks = np.array(part.coefficients, np.int32).reshape(-1, 64) * frame.quant[part.table]
        plane = jpeg_pixels.assemble(jpeg_pixels.inverse_dct(blocks.reshape(-1, 8, 8)), part.rows, part.columns)
        plane = plane[: part.height, : part.width]
        if (part.across, part.down) != (across, down):
            plane = jpeg_pixels.upsample(plane, across // part.across, down // part.down)
        planes.append(plane[: frame.height, : frame.width])
    if len(planes) == 1:
        image = np.repeat(planes[0][:, :, None], 3, axis=2)
    elif frame.adobe == 0:
        image = np.dstack(planes[::-1])
    else:
        image = jpeg_pixels.ycc_to_bgr(*planes)
    return jpeg_pixels.orient(image, frame.orientation)
