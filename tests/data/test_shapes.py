"""The drawn data set: reproducible, labelled rightly, complete or not there.

Covers folder.py.
"""

from unittest import mock

import numpy as np
import pytest

from yolo_musgd.data.folder import complete_folder
from yolo_musgd.data.shapes import CLASSES, MAX_OVERLAP, SIZE, draw, generate
from yolo_musgd.edge.errors import UserError


def test_the_same_seed_draws_the_same_picture():
    (a, la), (b, lb) = draw(5), draw(5)
    assert np.array_equal(np.asarray(a), np.asarray(b))
    assert la == lb
    assert not np.array_equal(np.asarray(a), np.asarray(draw(6)[0]))


def test_labels_are_inside_the_picture_and_overlap_little():
    kinds, areas = set(), []
    for seed in range(40):
        image, labels = draw(seed)
        assert image.size == (SIZE, SIZE)
        assert labels
        boxes = []
        for kind, x, y, w, h in labels:
            kinds.add(kind)
            areas.append(w * h)
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            assert min(box) >= -1e-9
            assert max(box) <= 1 + 1e-9
            for other in boxes:
                width = min(box[2], other[2]) - max(box[0], other[0])
                height = min(box[3], other[3]) - max(box[1], other[1])
                smaller = min(w * h, (other[2] - other[0]) * (other[3] - other[1]))
                assert max(width, 0) * max(height, 0) <= (MAX_OVERLAP + 1e-6) * smaller
            boxes.append(box)
    assert kinds == set(range(len(CLASSES)))
    assert max(areas) / min(areas) > 8  # small and large ones


def test_a_box_holds_its_shape():
    """The picture changes inside a box's edge, so the label is where the shape is: contrast against the ring around."""
    contrasts = []
    for seed in range(30):
        image, labels = draw(seed)
        pixels = np.asarray(image, dtype=float)
        _, x, y, w, h = labels[-1]  # drawn last, so nothing covers it
        if w * SIZE < 16:
            continue
        x1, x2, y1, y2 = (round(v * SIZE) for v in (x - w / 4, x + w / 4, y - h / 4, y + h / 4))
        core = pixels[y1:y2, x1:x2].reshape(-1, 3)
        contrasts.append(core.std(axis=0).mean() / pixels.reshape(-1, 3).std(axis=0).mean())
    assert np.median(contrasts) < 0.6  # a shape is one colour, the picture is not


def test_generate_writes_a_complete_set_and_refuses_to_overwrite(tmp_path):
    folder = generate(tmp_path / "set", {"train": 3, "val": 2}, size=64)
    assert len(list((folder / "images" / "train").glob("*.jpg"))) == 3
    assert len(list((folder / "labels" / "val").glob("*.txt"))) == 2
    with pytest.raises(UserError, match="not empty"):
        generate(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_of_two_at_once_the_first_one_counts(tmp_path):
    """Two trainings that are started together both draw the set."""
    target = tmp_path / "set"
    with complete_folder(target) as slow:
        (slow / "a").write_text("slow")
        with mock.patch("os.getpid", return_value=1), complete_folder(target) as fast:
            (fast / "a").write_text("fast")
    assert (target / "a").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    from yolo_musgd.data import shapes

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", {"train": 1})
    assert list(tmp_path.iterdir()) == []


def test_ultralytics_prepares_it_by_name(tmp_path, monkeypatch):
    """`data=shapes.yaml`: Ultralytics runs the download hook on first use and finds a valid set on the second."""
    import ultralytics.data.utils as data_utils

    from yolo_musgd import plugin

    plugin.register()
    monkeypatch.setattr(data_utils, "DATASETS_DIR", tmp_path)
    monkeypatch.chdir(tmp_path)
    data = data_utils.check_det_dataset("shapes.yaml")
    assert len(list((tmp_path / "yolo-musgd-shapes" / "images" / "train").iterdir())) == 320
    assert data["names"] == dict(enumerate(CLASSES))
    stamp = (tmp_path / "yolo-musgd-shapes").stat().st_mtime_ns
    data_utils.check_det_dataset("shapes.yaml")
    assert (tmp_path / "yolo-musgd-shapes").stat().st_mtime_ns == stamp
