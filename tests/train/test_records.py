"""The files of a run's telemetry: damaged ones are set aside, long ones are read in linear time."""

from __future__ import annotations

import gzip
import math
import time

import numpy as np
import pytest

from yolo_musgd.train.records import (
    COLUMNS,
    ENTROPY_FILE,
    LAYERS_FILE,
    STEPS_FILE,
    append_steps,
    append_values,
    forget_steps,
    forget_values,
    read_steps,
    read_values,
)


def steps_file(folder, epochs=3, steps=2):
    file, last = folder / STEPS_FILE, 0
    for epoch in range(1, epochs + 1):
        last = append_steps(file, epoch, np.full((steps, len(COLUMNS)), epoch + 0.5), last)
    return file


def values_file(folder, name=LAYERS_FILE, epochs=3):
    for epoch in range(1, epochs + 1):
        append_values(folder / name, "beta_t", epoch, {"0.weight": 0.9 / epoch, "1.bias": math.nan})
    return folder / name


DAMAGE = {
    "zeros": lambda data: data + bytes(512),
    "zeros inside": lambda data: data[:-20] + bytes(20),
    "cut": lambda data: data[:-9],
    "bytes that are no text": lambda data: data + b"\xff\xfe\x80 3,",
    "words": lambda data: data + b"three,0.weight,0.5\n4\n\n,,\n",
    "a number that is none": lambda data: data + b"4,0.weight,0.5.5\n",
    "infinite epoch": lambda data: data + b"inf,0.weight,0.5\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", [LAYERS_FILE, ENTROPY_FILE])
def test_damaged_values_are_set_aside_and_the_readable_rows_go_on(tmp_path, name, damage):
    file = values_file(tmp_path, name)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    assert set(read_values(file)["0.weight"]) >= {1, 2}
    forget_values(file, 3)
    assert (tmp_path / f"old_{name}").read_bytes() == damaged
    append_values(file, "beta_t", 3, {"0.weight": 0.25})
    found = read_values(file)["0.weight"]
    assert found == {1: 0.9, 2: 0.45, 3: 0.25}
    assert file.read_text().splitlines()[0] == "epoch,layer,beta_t"
    assert len(file.read_text().splitlines()) == 1 + 4 + 1


@pytest.mark.parametrize("content", [b"", bytes(700), b"\xff\xfe", b"something else\n1,2,3\n"])
def test_values_without_their_header_are_set_aside_whole(tmp_path, content):
    file = tmp_path / LAYERS_FILE
    for number in (1, 2):
        file.write_bytes(content)
        forget_values(file, 3)
        assert not file.exists()
        assert (tmp_path / f"old{number if number > 1 else ''}_{LAYERS_FILE}").read_bytes() == content
    append_values(file, "beta_t", 3, {"0.weight": 0.25})
    assert read_values(file) == {"0.weight": {3: 0.25}}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_step_file_goes_on_from_its_readable_rows(tmp_path, damage):
    file = steps_file(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert set(read_steps(file)["epoch"]) >= {1, 2}
    assert forget_steps(file, 3) == 4
    append_steps(file, 3, np.zeros((1, len(COLUMNS))), 4)
    assert read_steps(file)["epoch"].tolist() == [1, 1, 2, 2, 3]
    assert read_steps(file)["step"].tolist() == [1, 2, 3, 4, 5]


def test_rows_that_are_no_numbers_inside_a_sound_member(tmp_path):
    file = steps_file(tmp_path)
    row = ",".join(["3", "x"] + ["0"] * len(COLUMNS))
    with file.open("ab") as out:
        out.write(gzip.compress(f"{row}\n3,7\n\x00\xff\n".encode("latin-1")))
    assert forget_steps(file, 9) == 6
    assert len(read_steps(file)["step"]) == 6


def test_what_is_sound_is_left_as_it_is(tmp_path):
    steps, values = steps_file(tmp_path), values_file(tmp_path)
    before = steps.read_bytes(), values.read_bytes()
    assert forget_steps(steps, 4) == 6
    forget_values(values, 4)
    assert (steps.read_bytes(), values.read_bytes()) == before
    assert not list(tmp_path.glob("old*"))


def test_every_number_that_is_written_is_read(tmp_path):
    file = tmp_path / STEPS_FILE
    written = np.resize([0.0, -1.5, 1e-30, 1e30, math.nan, math.inf, -math.inf, 12345678.9, 1e-7], (4, len(COLUMNS)))
    append_steps(file, 1, written, 0)
    read = np.stack([read_steps(file)[c] for c in COLUMNS], 1)
    np.testing.assert_allclose(read, written, rtol=1e-5)


def test_a_million_steps_are_read_in_linear_time(tmp_path):
    """A thousand epochs, each a member of its own: reading them was quadratic."""
    file, columns = tmp_path / STEPS_FILE, len(COLUMNS)
    random = np.random.default_rng(0)
    rows = random.random((1000, columns))
    last = append_steps(file, 1, rows, 0)
    body = "".join(f"2,{last + i + 1}," + ",".join(f"{v:.6g}" for v in row) + "\n" for i, row in enumerate(rows))
    member = gzip.compress(body.encode())
    with file.open("ab") as out:
        for _ in range(999):
            out.write(member)
    start = time.process_time()
    steps = read_steps(file)
    seconds = time.process_time() - start
    assert len(steps["step"]) == 1_000_000
    assert steps["step"][-1] == 2000
    assert seconds < 5
