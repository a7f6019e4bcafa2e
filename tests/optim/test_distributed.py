"""Two processes share the orthogonalisation and end where one process would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train(rank, port, folder, settings, shard):
    """Three steps of a DDP-wrapped yolo26n on this rank's half of the images."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        from torch.nn.parallel import DistributedDataParallel

        from yolo_musgd.optim.muon import MuonSGD
        from yolo_musgd.optim.param_groups import muon_exclusions
        from yolo_musgd.settings import MuonSettings
        from yolo_musgd.steptime import real_gradients, ultralytics_groups

        model = real_gradients(imgsz=64, batch=1)
        model.zero_grad()
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        muon = MuonSettings(**settings, muon_shard=shard)
        optimizer = MuonSGD(ultralytics_groups(model), muon=muon, exclude=muon_exclusions(wrapped))
        generator = torch.Generator().manual_seed(rank)
        done = 0
        for _ in range(3):
            optimizer.zero_grad()
            batch = {
                "img": torch.rand(1, 3, 64, 64, generator=generator),
                "batch_idx": torch.zeros(2),
                "cls": torch.zeros(2, 1),
                "bboxes": torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.6, 0.2, 0.2]]),
            }
            loss, _ = wrapped(batch)
            loss.sum().backward()
            optimizer.step()
            plans = optimizer.matrices._plans
            done = sum(c.flops for c in next(iter(plans.values())) if c.owner == rank)
        torch.save(
            {
                "params": [p.detach() for p in model.parameters()],
                "momenta": [optimizer.state[p].get("exp_avg") for p in model.parameters()],
                "flops": done,
            },
            f"{folder}/{shard}-{rank}.pt",
        )
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize("settings", [{}, {"muon_rows": 0.9, "muon_every": 2}], ids=["recipe", "normuon"])
def test_two_processes_do_half_the_work_each_and_agree(tmp_path, settings):
    script = tmp_path / "worker.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('worker_module', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['worker_module'] = module\n"
        "spec.loader.exec_module(module)\n"
        "rank, port, shard = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'True'\n"
        f"module.train(rank, port, {str(tmp_path)!r}, {settings!r}, shard)\n"
    )
    runs = {}
    for shard in (True, False):
        port = free_port()
        workers = [
            subprocess.Popen([sys.executable, str(script), str(rank), str(port), str(shard)]) for rank in range(2)
        ]
        assert [w.wait(timeout=240) for w in workers] == [0, 0]
        runs[shard] = [torch.load(tmp_path / f"{shard}-{rank}.pt") for rank in range(2)]
    whole = runs[False][0]
    for run in (*runs[True], runs[False][1]):
        assert all(torch.equal(a, b) for a, b in zip(run["params"], whole["params"], strict=True))
        for a, b in zip(run["momenta"], whole["momenta"], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    shares = [r["flops"] for r in runs[True]]
    assert sum(shares) == whole["flops"]
    assert max(shares) < 0.55 * sum(shares)
