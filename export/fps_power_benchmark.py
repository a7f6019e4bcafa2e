#!/usr/bin/env python3
"""FPS and watts of a model on the board this runs on: idle baseline, load, percentiles, joules per frame.

    python3 export/fps_power_benchmark.py best.onnx source=photos/ power=auto threads=[1,2,4]

On a board without this package, use the single file instead: yolo-musgd bundle, then python3 edge.pyz bench.
"""

import sys

from yolo_musgd.edge.__main__ import main

if __name__ == "__main__":
    words = sys.argv[1:] or ["--help"]
    sys.exit(main(["help", "bench"] if words[0] in ("-h", "--help", "help") else ["bench", *words]))
