#!/usr/bin/env python3
"""A checkpoint for a Raspberry Pi: INT8 with its accuracy guarded, packed with all the board needs.

    python3 export/to_raspberry_pi.py model=best.pt data=data.yaml imgsz=320 [target=raspberry-pi-4] [samples=photos/]

Every runtime that is installed here and serves the board gets a bundle of its own (runtime=onnxruntime makes one).
"""

import sys

from yolo_musgd.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", "target=raspberry-pi-5", "bundle=True", *sys.argv[1:]]))
