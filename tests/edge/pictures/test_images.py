"""pictures/images.py, letterbox.py, draw.py and library.py, with OpenCV and with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.pictures import draw, images, letterbox, library
from yolo_musgd.edge.sources import kinds

cv2 = pytest.importorskip("cv2")


def photo_like(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth picture with edges and a little noise."""
    frame = images.synthetic_frame(height, width).astype(np.int32)
    frame += np.random.default_rng(seed).integers(-9, 10, frame.shape)
    return cv2.GaussianBlur(np.clip(frame, 0, 255).astype(np.uint8), (3, 3), 0)


@pytest.fixture(params=["opencv", "pillow"])
def with_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One image library after the other."""
    monkeypatch.setattr(library, {"opencv": "pillow", "pillow": "cv2"}[request.param], None)
    assert library.backend() == request.param
    return str(request.param)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board with neither."""
    monkeypatch.setattr(library, "cv2", None)
    monkeypatch.setattr(library, "pillow", None)


def test_without_a_library_one_line_says_what_to_install(no_library: None, tmp_path: Path) -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    for call in (
        lambda: images.read_image("x.jpg"),
        lambda: images.write_image(str(tmp_path / "x.jpg"), frame),
        lambda: letterbox.resize(frame, 4, 4),
        lambda: draw.draw(frame, np.zeros((0, 6)), {}),
    ):
        with pytest.raises(UserError, match="pip install opencv-python-headless") as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_synthetic_frame_needs_no_library(no_library: None) -> None:
    source = kinds.open_source(None, (96, 160))
    frame = source.read()
    assert frame is not None
    blob, where = letterbox.Letterbox((96, 160))(frame[1])
    assert (blob.shape, where[:4]) == ((1, 3, 96, 160), (96, 160, 0, 0))
    np.testing.assert_array_equal(blob[0, 0] * 255, frame[1][:, :, 2])
    assert source.info()["source"] == "synthetic 160x96"
    assert kinds.open_source("synthetic", (96, 160)).info()["kind"] == "synthetic"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, with_library: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from PIL import ImageOps

    exif = image.Exif()
    exif[274] = orientation
    path = tmp_path / "x.jpg"
    image.fromarray(photo_like(3, 24, 40)[:, :, ::-1]).save(path, exif=exif, subsampling=0)
    expected = np.asarray(ImageOps.exif_transpose(image.open(path)).convert("RGB"))[:, :, ::-1]
    np.testing.assert_array_equal(images.read_image(str(path)), expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_sixteen_bits_the_upper_eight_count(suffix: str, channels: int, with_library: str, tmp_path: Path) -> None:
    deep = np.arange(0, 1 << 16, 16, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(cv2.imencode(suffix, deep)[1].tobytes())
    grey = images.read_image(str(path), channels).reshape(64, 64, -1)
    np.testing.assert_array_equal(grey, np.repeat((deep >> 8)[:, :, None], channels, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".jpg"])
def test_written_images_are_read_back(suffix: str, with_library: str, tmp_path: Path) -> None:
    frame = photo_like(5, 31, 45)
    path = images.write_image(str(tmp_path / f"x{suffix}"), frame)
    read = images.read_image(path)
    np.testing.assert_allclose(read.astype(int), frame, atol=40 if suffix == ".jpg" else 0)
    np.testing.assert_array_equal(read, cv2.imread(path))
    with pytest.raises(UserError, match="cannot encode"):
        images.write_image(str(tmp_path / "x.nonsense"), frame)


def frame_or_refusal(path: Path) -> tuple[np.ndarray | None, str]:
    """What reading gives: the image, or the error's text."""
    try:
        return images.read_image(str(path)), ""
    except UserError as error:
        return None, str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".jpg", ".png", ".bmp", ".ppm"]), st.integers(0, 400), st.integers(0, 400), st.binary(max_size=4)
)
def test_damaged_files_are_refused_or_decoded_never_a_crash(
    with_library: str, tmp_path: Path, suffix: str, cut: int, at: int, noise: bytes
) -> None:
    data = bytearray(cv2.imencode(suffix, photo_like(6, 16, 24))[1].tobytes())
    at = min(at, len(data))
    data[at : at + len(noise)] = noise
    path = tmp_path / "x.jpg"
    path.write_bytes(data[: max(0, len(data) - cut)])
    image, refusal = frame_or_refusal(path)
    assert len(refusal.splitlines()) == (image is None)
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(1, 120), st.integers(1, 120))
def test_pillows_resize_is_opencvs_to_one_grey_level(h: int, w: int, height: int, width: int) -> None:
    frame = np.random.default_rng(h * 91 + w).integers(0, 256, (h, w, 3), np.uint8)
    expected = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "cv2", None)
        got = letterbox.resize(frame, height, width)
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (97, 31), (640, 640), (1280, 720), (3, 1000)])
@pytest.mark.parametrize("size", [(320, 320), (640, 640), (320, 640)])
def test_letterbox_is_ultralytics(shape: tuple[int, int], size: tuple[int, int], oracle: list[str]) -> None:
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


def test_both_libraries_read_the_same_pixels(with_library: str, tmp_path: Path) -> None:
    path = str(tmp_path / "p.jpg")
    cv2.imwrite(path, photo_like(8, 50, 70))
    np.testing.assert_array_equal(images.read_image(path), cv2.imread(path))


def test_drawing_marks_the_box_and_leaves_the_rest(with_library: str) -> None:
    frame = np.zeros((200, 300, 3), np.uint8)
    row = np.array([[50, 60, 150, 160, 0.87, 3]], np.float32)
    out = draw.draw(frame, row, {3: "motorcycle"})
    assert (out[60, 50:150] == draw.colour(3)).all()
    assert not out[100, 100].any()
    assert not out[:, 250:].any()
    assert not frame.any()
    label = out[30:59, 50:150].reshape(-1, 3)
    assert (label == draw.colour(3)).all(axis=1).sum() > 500  # the patch
    assert (label.any(axis=1) & (label != draw.colour(3)).any(axis=1)).sum() > 50  # the letters
    edge = draw.draw(frame, np.array([[-20, -20, 900, 900, 0.5, 7]], np.float32), {7: "Ampère 猫"})  # no crash
    assert edge.shape == frame.shape
    assert draw.draw(frame[:5, :5], row, {}).shape == (5, 5, 3)


def test_sources(pictures: object, tmp_path: object) -> None:
    source = kinds.open_source(str(pictures))
    names = [source.read() for _ in range(4)]
    assert [frame[0] for frame in names if frame] == ["0.png", "1.png", "2.png", "0.png"]
    with pytest.raises(UserError, match="no images"):
        kinds.open_source(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        kinds.open_source("nowhere")
    with pytest.raises(UserError, match="cannot be opened"):
        kinds.open_source("97")


def test_video_source_starts_again(tmp_path: object) -> None:
    path = f"{tmp_path}/clip.avi"
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for k in range(3):
        writer.write(np.full((48, 64, 3), 80 * k, np.uint8))
    writer.release()
    source = kinds.open_source(path)
    frames = [source.read() for _ in range(5)]
    assert all(frame is not None for frame in frames)
    assert source.info()["kind"] == "video"
    source.close()
