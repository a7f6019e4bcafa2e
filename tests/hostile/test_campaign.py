"""A short campaign against every parser of edge/; scripts/hostile is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import campaign
import pytest
from mutate import ODD, mutate

from yolo_musgd.edge.errors import UserError

pytest.importorskip("cv2", reason="the damaged images are made with OpenCV")

NAMES = [
    "labels", "COCO file", "image list", "image, OpenCV", "image, Pillow", "ONNX file", "manifest", "metadata.yaml",
    "engine header", "trtexec times", "options", "folder name", "tegrastats", "pmic", "throttled", "meter's CSV",
    "ina3221", "RAPL counter", "RAPL range", "hwmon",
]  # fmt: skip


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, campaign.Parser]:
    return campaign.parsers_of_edge(tmp_path_factory.mktemp("hostile"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_refused_in_one_line_or_read_right(name: str, parsers: dict[str, campaign.Parser]) -> None:
    assert set(NAMES) == set(parsers)
    counts = campaign.run(parsers[name], 80, seed=1)
    assert counts.wrong == []
    assert counts.refused + counts.accepted == counts.tried == 80


class LongError(UserError):
    """A refusal that is not one line."""

    def __str__(self) -> str:
        return "two\nlines"


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        (lambda data: float("x"), "ValueError"),
        (lambda data: 1 / 0, "ZeroDivisionError"),
        (lambda data: (_ for _ in ()).throw(LongError()), "several lines"),
    ],
)
def test_a_wrong_answer_is_counted(read: campaign.Call, wrong: str) -> None:
    counts = campaign.run(campaign.Parser([b"x"], read), 3, seed=0)
    assert len(counts.wrong) == 3
    assert wrong in counts.wrong[0]


def test_the_same_seed_damages_alike_and_nothing_stays_whole() -> None:
    data = Path(__file__).read_bytes()
    first, again = ([mutate(data, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == again
    assert sum(damaged != data for damaged in first) > 45


def test_what_is_put_into_one_json_text_is_not_changed_by_the_next() -> None:
    chance, before = random.Random(0), repr(ODD)
    texts = {mutate(b'{"a": [[1], {}, []], "b": {"c": [], "d": {}}}', chance) for _ in range(5000)}
    assert repr(ODD) == before
    assert len(texts) > 2500
