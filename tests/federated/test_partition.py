"""Dividing a data set: nothing lost, nothing twice, and as uneven as was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.data.reader import LabelledImage, Rules, check, read_split
from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated import partition
from yolo_musgd.federated.partition import divide, own_folders, parse_split, write_client


def images(classes):
    """One image a list of classes."""
    rows = [np.array([[c, 0.5, 0.5, 0.1, 0.1] for c in found], np.float32).reshape(-1, 5) for found in classes]
    return [LabelledImage(f"{i}.png", labels, (64, 64)) for i, labels in enumerate(rows)]


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=40),
    clients=st.integers(1, 10),
    split=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:1", "dirichlet:100"]),
    seed=st.integers(0, 5),
)
def test_every_image_goes_to_one_client_and_every_client_has_one(classes, clients, split, seed):
    given_images = images(classes)
    if clients > len(classes):
        with pytest.raises(UserError, match=f"clients={clients}: the train split has {len(classes)} images"):
            divide(given_images, clients, split, seed)
        return
    parts = divide(given_images, clients, split, seed)
    assert sorted(i.file for part in parts for i in part) == sorted(i.file for i in given_images)
    assert all(part and part == [i for i in given_images if i.file in {p.file for p in part}] for part in parts)
    again = divide(given_images, clients, split, seed)
    assert [[i.file for i in p] for p in again] == [[i.file for i in p] for p in parts]


def test_one_client_gets_the_data_set_as_it_is():
    given_images = images([[0], [1], [], [2]])
    assert divide(given_images, 1, "iid", 0) == [given_images]


def test_a_small_alpha_makes_classes_uneven():
    """How far each client's share of rare images is from the whole's, in the mean."""
    given_images = images([[0, 1] if i % 2 else [0] for i in range(400)])

    def spread(split):
        shares = [np.mean([len(i.labels) == 2 for i in p]) for s in range(5) for p in divide(given_images, 4, split, s)]
        return np.std(shares)

    assert spread("dirichlet:0.1") > 3 * spread("dirichlet:100")


def test_iid_parts_differ_by_one_image_at_most():
    sizes = [len(part) for part in divide(images([[0]] * 11), 4, "iid", 0)]
    assert sorted(sizes) == [2, 3, 3, 3]


@pytest.mark.parametrize(
    "text", ["", "idd", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "iid:2"]
)
def test_a_split_that_is_none_is_answered_in_one_line(text):
    with pytest.raises(UserError, match="must be iid, folders or dirichlet:ALPHA"):
        parse_split(text)


def test_a_clients_folder_holds_what_the_whole_has(tiny_data, tmp_path):
    """Ultralytics reads the same labels from it, in the same order."""
    content = check(str(tiny_data))
    whole = read_split(content, "train").images
    file = write_client(tmp_path / "data", whole[3:9], content, Rules())
    found = read_split(check(str(file)), "train").images
    assert [i.shape for i in found] == [i.shape for i in whole[3:9]]
    for mine, theirs in zip(found, whole[3:9], strict=True):
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert check(str(file))["val"] == content["val"]
    assert check(str(file))["names"] == content["names"]


def test_a_clients_folder_may_be_moved(tiny_data, tmp_path):
    content = check(str(tiny_data))
    write_client(tmp_path / "old" / "data", read_split(content, "train").images[:3], content, Rules())
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(read_split(check(str(tmp_path / "new" / "data" / "data.yaml")), "train").images) == 3


def test_a_name_as_long_as_the_system_takes_is_taken(tiny_data, tmp_path):
    content = check(str(tiny_data))
    image = read_split(content, "train").images[0]
    long = tmp_path / ("ä" * 125 + Path(image.file).suffix)
    long.write_bytes(Path(image.file).read_bytes())
    file = write_client(tmp_path / "data", [image._replace(file=str(long))], content, Rules())
    assert len(read_split(check(str(file)), "train").images) == 1


def test_clients_that_bring_their_own_data_must_agree_on_classes(tiny_data, tmp_path, monkeypatch):
    other = tmp_path / "other.yaml"
    text = tiny_data.read_text()
    other.write_text(text[: text.index("names:")] + "names:\n  0: a\n  1: b\n  2: c\n")
    with pytest.raises(UserError, match=r"the clients' classes differ: class 0 is .* and 'a' in .*other.yaml"):
        own_folders(f"[{tiny_data},{other}]", "detect")
    monkeypatch.setattr(partition, "check", lambda name, task: check(str(tiny_data)))
    assert own_folders("[shapes.yaml,bccd.yaml]", "detect") == [str(tiny_data)] * 2
    monkeypatch.undo()
    assert own_folders(f"[{tiny_data},{tiny_data}]", "detect") == [str(tiny_data)] * 2
    with pytest.raises(UserError, match="one a client"):
        own_folders(str(tiny_data), "detect")
