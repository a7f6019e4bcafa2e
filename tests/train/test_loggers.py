"""The loggers of Ultralytics get the optimizer's columns: its own callbacks, with stand-ins for their packages.

TensorBoard's file is read back in test_training.py.
"""

from types import SimpleNamespace

import pytest

from yolo_musgd.train.trainer import MuSGDTrainerMixin


class Host:
    def save_metrics(self, metrics):
        self.saved = metrics


class Ours(MuSGDTrainerMixin, Host):
    pass


@pytest.fixture
def trainer():
    """At the end of its second epoch, as the loggers find it."""
    made = Ours.__new__(Ours)
    made._monitor = SimpleNamespace(end_epoch=lambda epoch: {"optim/grad_norm": 3.0, "optim/beta_t": 0.9})
    made.metrics, made.epoch, made.plots = {"metrics/mAP50(B)": 0.5}, 1, {}
    made.validator = SimpleNamespace(plots={})
    made.save_metrics(metrics={"train/loss": 1.0, **made.metrics})
    return made


def test_results_csv_has_them_last(trainer):
    assert list(trainer.saved)[-2:] == ["optim/grad_norm", "optim/beta_t"]


def test_wandb(trainer, monkeypatch):
    from ultralytics.utils.callbacks import wb

    logged = {}
    run = SimpleNamespace(log=lambda row, *_, **__: logged.update(row))
    monkeypatch.setattr(wb, "wb", SimpleNamespace(run=run))
    wb.on_fit_epoch_end(trainer)
    assert logged.items() >= {"optim/grad_norm": 3.0, "optim/beta_t": 0.9, "metrics/mAP50(B)": 0.5}.items()


def test_mlflow(trainer, monkeypatch):
    from ultralytics.utils.callbacks import mlflow

    logged = {}
    package = SimpleNamespace(log_metrics=lambda metrics, *_, **__: logged.update(metrics))
    monkeypatch.setattr(mlflow, "mlflow", package)
    trainer._mlflow_active = True
    mlflow.on_fit_epoch_end(trainer)
    assert logged.items() >= {"optim/grad_norm": 3.0, "optim/beta_t": 0.9}.items()
