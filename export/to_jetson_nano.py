#!/usr/bin/env python3
"""A checkpoint for the original Jetson Nano: an FP16 graph that TensorRT 8.2 reads, packed with all the board needs.

    python3 export/to_jetson_nano.py model=best.pt data=data.yaml imgsz=320 [samples=photos/]

The Nano's GPU has no INT8: precision=int8 is refused. The board builds the engine, see the bundle's README.
"""

import sys

from yolo_musgd.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", "target=jetson-nano", "bundle=True", *sys.argv[1:]]))
