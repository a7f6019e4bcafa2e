"""A short campaign against the parsers that only a PC has; scripts/hostile is the long one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import campaign
import pytest

pytest.importorskip("torch_pruning", reason="one of the parsers is of the extra prune")
from campaign_pc import parsers_of_pc

NAMES = [
    "bench.json", "val.json", "ladder's report", "recipe", "protocol", "data YAML", "run.json", "results.csv",
    "step marker", "step file", "layer file", "ncnn param", "ncnn bin", "Pascal VOC", "pixel boxes",
]  # fmt: skip


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, campaign.Parser]]:
    logging.disable(logging.CRITICAL)
    yield parsers_of_pc(tmp_path_factory.mktemp("hostile-pc"))
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_refused_in_one_line_or_read_right(name: str, parsers: dict[str, campaign.Parser]) -> None:
    assert set(NAMES) == set(parsers)
    for seed in parsers[name].seeds:
        parsers[name].call(seed)
    counts = campaign.run(parsers[name], 80, seed=1)
    assert counts.wrong == []
    assert counts.refused + counts.accepted == counts.tried == 80
