"""From a checkpoint to what a board runs: FP32 graph, calibration, INT8, accuracy guard, artifact with its evidence."""

import sys

from yolo_musgd import CommandPackage

sys.modules[__name__].__class__ = CommandPackage
