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


AHEAD = "as a device"  # the branches of a device, on the CPU too
CASES = {"recipe": {}, "normuon": {"muon_rows": 0.9, "muon_every": 2}, AHEAD: {}}


def train(rank, settings, shard, device):
    """Three steps of a DDP-wrapped yolo26n, each rank on its own image."""
    from torch.nn.parallel import DistributedDataParallel

    from yolo_musgd.lab.contenders import ultralytics_groups
    from yolo_musgd.lab.steptime import real_gradients
    from yolo_musgd.optim.muon import MuonSGD
    from yolo_musgd.optim.param_groups import muon_exclusions
    from yolo_musgd.optim.settings import MuonSettings

    model = real_gradients(imgsz=64, batch=1)
    model.criterion = None  # made anew on the device
    model.to(device)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    muon = MuonSettings(**settings, muon_shard=shard)
    optimizer = MuonSGD(ultralytics_groups(model), muon=muon, exclude=muon_exclusions(wrapped))
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        batch = {
            "img": torch.rand(1, 3, 64, 64, generator=generator),
            "batch_idx": torch.zeros(2),
            "cls": torch.zeros(2, 1),
            "bboxes": torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.6, 0.2, 0.2]]),
        }
        loss, _ = wrapped({k: v.to(device) for k, v in batch.items()})
        loss.sum().backward()
        optimizer.step()
    momenta = [optimizer.state[p].get("exp_avg") for p in model.parameters()]
    chunks = next(iter(optimizer.matrices._plans.values()))
    return {
        "params": [p.detach().cpu() for p in model.parameters()],
        "momenta": [m if m is None else m.cpu() for m in momenta],
        "flops": sum(c.flops for c in chunks if c.owner == rank),
    }


def work(rank, port, folder, kind):
    """One of the two processes: on the CPU, or each on its own GPU."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    device = f"cuda:{rank}" if kind == "cuda" else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=2)
    try:
        for case, settings in CASES.items():
            if case == AHEAD:
                from yolo_musgd.optim import hybrid, kernel_plan

                hybrid.runs_ahead = kernel_plan.runs_ahead = lambda device: True
            for shard in (True, False):
                torch.save(train(rank, settings, shard, device), f"{folder}/{case}-{shard}-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def folder(request, tmp_path_factory):
    """Results of all cases from two processes, over gloo or over NCCL."""
    if request.param == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("two ranks on GPUs need two of them")
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder, port = tmp_path_factory.mktemp("gloo"), free_port()
    script = folder / "worker.py"
    script.write_text(
        "import runpy, sys\n"
        f"work = runpy.run_path({__file__!r})['work']\n"
        f"work(int(sys.argv[1]), {port}, {str(folder)!r}, {request.param!r})\n"
    )
    workers = [subprocess.Popen([sys.executable, str(script), str(rank)]) for rank in range(2)]
    assert [w.wait(timeout=240) for w in workers] == [0, 0]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_half_the_work_each_and_agree(folder, case):
    shared, whole = (
        [torch.load(folder / f"{case}-{s}-{rank}.pt", weights_only=True) for rank in range(2)] for s in (True, False)
    )
    for run in (*shared, whole[1]):
        assert all(torch.equal(a, b) for a, b in zip(run["params"], whole[0]["params"], strict=True))
        for a, b in zip(run["momenta"], whole[0]["momenta"], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    shares = [r["flops"] for r in shared]
    assert sum(shares) == whole[0]["flops"]
    assert max(shares) < 0.55 * sum(shares)
