"""What goes to the board: detection, timing, power and mAP with the standard library and numpy alone.

The folder is zipped into one file, ``edge.pyz``, that runs on Python 3.6 (the original Jetson Nano) and later, so it
keeps to that syntax, imports nothing else of yolo_musgd and neither torch nor ultralytics. A runtime (ONNX Runtime,
TensorRT, NCNN, OpenVINO), OpenCV, Pillow and matplotlib are used where they are installed, never required at import.

    python3 edge.pyz bench model.onnx power=auto          python3 -m yolo_musgd.edge doctor
"""

__version__ = "0.1.0"
