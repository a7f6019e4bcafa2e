"""Every optimizer of the registry trains, is interrupted after an epoch, and resumes with its settings and state."""

import pytest
import torch

from yolo_musgd.optim.registry import REGISTRY
from yolo_musgd.optim.zoo import RECIPES

pytestmark = pytest.mark.slow
NAMES = [n for n in REGISTRY if n != "auto"]
EXTRA = {"MuonSGD": {"muon_rows": 0.95, "muon_rest": "musgd"}}


class InterruptedTrainingError(Exception):
    """Ends a run after its first checkpoint."""


def stop(trainer):
    raise InterruptedTrainingError


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_resumes(name, tiny_data, tmp_path):
    from ultralytics import YOLO

    if name in RECIPES and RECIPES[name].library != "torch.optim":
        pytest.importorskip(RECIPES[name].library)
    entry = REGISTRY[name]
    model = YOLO("yolo26n.yaml")
    model.add_callback("on_fit_epoch_end", stop)
    before = [p.detach().clone() for p in model.model.parameters()]
    with pytest.raises(InterruptedTrainingError):
        model.train(
            data=str(tiny_data), optimizer=name, lr0=min(entry.lr0, 1.0), epochs=2, imgsz=64, batch=8, nbs=8, workers=0,
            device="cpu", amp=False, plots=False, project=str(tmp_path), name="run", warmup_epochs=0.0,
            **EXTRA.get(name, {}),
        )  # fmt: skip
    # a normalised step as long as the warm-up's 0.1 would throw the biases away
    assert model.trainer.args.warmup_bias_lr == (0.0 if name == "MuonAdamW" else 0.1)
    trained = list(model.trainer.model.parameters())
    assert all(torch.isfinite(p).all() for p in trained)
    assert sum(not torch.equal(p, q) for p, q in zip(trained, before, strict=True)) > 300
    last = tmp_path / "run" / "weights" / "last.pt"
    old = model.trainer.optimizer

    def compare(trainer):
        new = trainer.optimizer
        assert type(new).__name__ == type(old).__name__
        assert len(new.param_groups) == len(old.param_groups)
        old_params = [p for g in old.param_groups for p in g["params"]]
        new_params = [p for g in new.param_groups for p in g["params"]]
        keys = 0
        for p, q in zip(old_params, new_params, strict=True):
            assert old.state[p].keys() == new.state[q].keys()
            for key, value in old.state[p].items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
                    keys += 1
                    torch.testing.assert_close(new.state[q][key].float(), value.float(), rtol=2e-3, atol=1e-6)
        assert keys > 300
        raise InterruptedTrainingError

    again = YOLO(last)
    again.add_callback("on_train_start", compare)
    with pytest.raises(InterruptedTrainingError):
        again.train(resume=True)
