from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge import jpeg_pixels, rasters
from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures import draw, images, letterbox

cv2 = pytest.importorskip("cv2")


def photo_like(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth picture with edges and a little noise."""
    frame = images.synthetic_frame(height, width).astype(np.int32)
    frame += np.random.default_rng(seed).integers(-9, 10, frame.shape)
    return cv2.GaussianBlur(np.clip(frame, 0, 255).astype(np.uint8), (3, 3), 0)


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (61, 83), (17, 200), (9, 7)])
@pytest.mark.parametrize("restart", [0, 3])
def test_jpeg_equals_opencv_to_the_bit(sampling: int, height: int, width: int, restart: int) -> None:
    settings_ = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    data = cv2.imencode(".jpg", photo_like(1, height, width), [cv2.IMWRITE_JPEG_QUALITY, 88, *settings_])[1]
    np.testing.assert_array_equal(rasters.decode(data.tobytes()), cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_grey_and_progressive_jpeg() -> None:
    grey = cv2.imencode(".jpg", photo_like(2, 40, 56)[:, :, 0])[1]
    np.testing.assert_array_equal(rasters.decode(grey.tobytes()), cv2.imdecode(grey, cv2.IMREAD_COLOR))
    progressive = cv2.imencode(".jpg", photo_like(2, 40, 56), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    with pytest.raises(UserError, match="pip install pillow"):
        rasters.decode(progressive.tobytes())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    from PIL import Image, ImageOps

    source = Image.fromarray(photo_like(3, 24, 40)[:, :, ::-1])
    exif = Image.Exif()
    exif[274] = orientation
    import io

    buffer = io.BytesIO()
    source.save(buffer, "JPEG", exif=exif, subsampling=0)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)).convert("RGB"))[:, :, ::-1]
    np.testing.assert_array_equal(rasters.decode(buffer.getvalue()), expected)
    assert jpeg_pixels.orient(np.zeros((2, 3, 3), np.uint8), orientation).shape[2] == 3


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".pgm"])
def test_lossless_files_equal_opencv(suffix: str) -> None:
    frame = photo_like(4, 37, 53)
    data = cv2.imencode(suffix, frame[:, :, 0] if suffix == ".pgm" else frame)[1]
    np.testing.assert_array_equal(rasters.decode(data.tobytes()), cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_written_png_is_read_by_opencv() -> None:
    frame = photo_like(5, 31, 45)
    data = rasters.encode_png(frame)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), frame)
    np.testing.assert_array_equal(rasters.decode(data), frame)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([".jpg", ".png", ".bmp", ".ppm"]), st.integers(0, 400), st.integers(0, 400), st.binary(max_size=4)
)
def test_damaged_files_are_refused_or_decoded_never_a_crash(suffix: str, cut: int, at: int, noise: bytes) -> None:
    data = bytearray(cv2.imencode(suffix, photo_like(6, 16, 24))[1].tobytes())
    at = min(at, len(data))
    data[at : at + len(noise)] = noise
    try:
        image = rasters.decode(bytes(data[: max(0, len(data) - cut)]))
    except UserError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(1, 120), st.integers(1, 120))
def test_numpy_resize_is_opencvs(h: int, w: int, height: int, width: int) -> None:
    frame = np.random.default_rng(h * 91 + w).integers(0, 256, (h, w, 3), np.uint8)
    expected = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(letterbox.resize_numpy(frame, height, width).astype(int) - expected)
    assert difference.max() <= 1  # OpenCV itself differs by a grey level between its vector and scalar loops


@pytest.mark.parametrize(
    ("shape", "size"),
    [((483, 640), (242, 320)), ((425, 640), (213, 320)), ((333, 500), (426, 640)), ((1280, 720), (640, 360))],
)
def test_numpy_resize_is_opencvs_to_the_bit(shape: tuple[int, int], size: tuple[int, int]) -> None:
    frame = photo_like(9, *shape)
    expected = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(letterbox.resize_numpy(frame, *size), expected)


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (97, 31), (640, 640), (1280, 720), (3, 1000)])
@pytest.mark.parametrize("size", [(320, 320), (640, 640), (320, 640)])
def test_letterbox_is_ultralytics(shape: tuple[int, int], size: tuple[int, int]) -> None:
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.ops import scale_boxes

    frame = photo_like(7, *shape)
    blob, where = letterbox.Letterbox(size)(frame)
    expected = LetterBox(new_shape=size)(image=frame)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(blob[0], expected)
    boxes = np.array([[10, 20, 60, 90], [-5, 0, 700, 700]], np.float32)
    np.testing.assert_allclose(
        letterbox.to_image(boxes, where, shape), scale_boxes(size, boxes.copy(), shape), atol=1e-3
    )


def test_letterbox_clears_the_last_image() -> None:
    box = letterbox.Letterbox((64, 64))
    box(np.full((64, 64, 3), 255, np.uint8))
    blob, _ = box(np.zeros((64, 16, 3), np.uint8))
    assert blob[0, 0, :, 0] == pytest.approx(114 / 255)


@pytest.mark.parametrize("way", ["opencv", "pillow", "numpy"])
def test_every_way_reads_the_same_pixels(way: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/p.jpg"
    cv2.imwrite(path, photo_like(8, 50, 70))
    expected = cv2.imread(path)
    if way != "opencv":
        monkeypatch.setattr(images, "cv2", None)
    if way == "numpy":
        monkeypatch.setattr(images, "Image", None)
    assert images.backend() == way
    np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.parametrize("with_opencv", [True, False])
def test_drawing_marks_the_box_and_leaves_the_rest(with_opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_opencv:
        monkeypatch.setattr(draw, "cv2", None)
    frame = np.zeros((200, 300, 3), np.uint8)
    row = np.array([[50, 60, 150, 160, 0.87, 3]], np.float32)
    out = draw.draw(frame, row, {3: "motorcycle"})
    assert (out[60, 50:150] == draw.colour(3)).all()
    assert not out[100, 100].any()
    assert not out[:, 250:].any()
    assert not frame.any()
    edge = draw.draw(frame, np.array([[-20, -20, 900, 900, 0.5, 7]], np.float32), {})  # leaves the picture: no crash
    assert edge.shape == frame.shape


def test_sources(pictures: object, tmp_path: object) -> None:
    source = images.open_source(str(pictures))
    names = [source.read() for _ in range(4)]
    assert [frame[0] for frame in names if frame] == ["0.png", "1.png", "2.png", "0.png"]
    with pytest.raises(UserError, match="no images"):
        images.open_source(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        images.open_source("nowhere")
    with pytest.raises(UserError, match="cannot be opened"):
        images.open_source("97")


def test_video_source_starts_again(tmp_path: object) -> None:
    path = f"{tmp_path}/clip.avi"
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for k in range(3):
        writer.write(np.full((48, 64, 3), 80 * k, np.uint8))
    writer.release()
    source = images.open_source(path)
    frames = [source.read() for _ in range(5)]
    assert all(frame is not None for frame in frames)
    assert source.info()["kind"] == "video"
    source.close()
