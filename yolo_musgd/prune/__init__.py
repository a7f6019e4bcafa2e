"""Structural pruning of Ultralytics models: fewer channels, stock classes, checkpoints that load anywhere."""

import sys

from yolo_musgd import CommandPackage

sys.modules[__name__].__class__ = CommandPackage
