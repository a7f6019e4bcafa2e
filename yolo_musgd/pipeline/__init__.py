"""From data to board in one command: train, prune, fine-tune, quantize, check, bundle, report."""

import sys

from yolo_musgd import CommandPackage

sys.modules[__name__].__class__ = CommandPackage
