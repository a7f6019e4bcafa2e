"""A few training images: plain ones, which importance is measured on, and augmented ones, for BatchNorm."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from ultralytics.cfg import get_cfg
from ultralytics.utils import LOGGER

from yolo_musgd.data.reader import Rules, class_names, dataset
from yolo_musgd.edge.errors import UserError
from yolo_musgd.export.splits import MIN_IMAGES, check_names

Batch = dict[str, Any]


def check_classes(model: Any, data: dict[str, Any], name: str, rules: Rules) -> None:
    """Refuse data of other classes than the model's.

    Raises:
        UserError: with both counts.
    """
    head = model.model[-1]
    have = head.linear.out_features if hasattr(head, "linear") else head.nc
    names = class_names(data, rules)
    if have != len(names):
        raise UserError(
            f"the model has {have} classes, data={name} has {len(names)}: prune with the data the model was "
            "trained on, or train it on this data first"
        )
    check_names(model.names, names, name)


class Images:
    """Batches of training images, the same ones at every pass.

    Args:
        data: from :func:`yolo_musgd.data.reader.check`.
        rules: of the model's training, its task among them.
        imgsz: side, pixels.
        count: images.
        batch: images a batch.
        seed: of the choice among all training images, and of the augmentation.
        augment: as in the last epochs of a training, but for classification; else letterboxed.

    Raises:
        UserError: fewer than 16 training images.
    """

    def __init__(
        self,
        data: dict[str, Any],
        rules: Rules,
        imgsz: int,
        count: int,
        batch: int = 16,
        seed: int = 0,
        augment: bool = False,
    ) -> None:
        data_set: Any
        self._seed = seed if augment else None
        if rules.task == "classify":
            from ultralytics.data.dataset import ClassificationDataset

            args = get_cfg(overrides={"task": "classify", "imgsz": imgsz, "mode": "train", "cache": False})
            data_set = ClassificationDataset(root=data["train"], args=args, augment=False, prefix="prune")
        else:
            data_set = dataset(data, "train", rules, imgsz, batch, augment)
        if len(data_set) < MIN_IMAGES:
            raise UserError(
                f"pruning needs at least {MIN_IMAGES} training images, got {len(data_set)} in {data['train']}"
            )
        if len(data_set) < count and not augment:  # said once
            LOGGER.warning(f"images={count} were asked for, the training set has {len(data_set)}: all of them are used")
        order = torch.randperm(len(data_set), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        if augment:  # for BatchNorm, which has no variance of one image's last map where that is a pixel
            batch = max(batch, 2)
            order = order[: len(order) - (len(order) % batch == 1)]
        self._loader = DataLoader(
            Subset(data_set, order), batch_size=batch, collate_fn=getattr(data_set, "collate_fn", None)
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        with _seeded(self._seed):
            for batch in self._loader:
                image = batch["img"]
                batch["img"] = image.float() if image.is_floating_point() else image.float() / 255
                yield batch


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed what augmentation draws from, and put it back afterwards; None leaves it alone."""
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def recalibrate(model: torch.nn.Module, images: Images) -> None:
    """Set the running mean and variance of every BatchNorm to those of the given images, averaged over batches.

    Pruned inputs shift every later activation, and BatchNorm still expects the old ones: most of the accuracy that
    pruning costs comes back with this one pass (Li et al., "EagleEye", 2020, arXiv:2007.02491). They should be
    augmented, as what the weights were trained with was (docs/prune.md has the figures).
    """
    from ultralytics.utils import TQDM

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    with torch.no_grad():
        for batch in TQDM(images, desc="recalibrating BatchNorm", total=len(images)):
            image: Tensor = batch["img"]
            model(image)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()
