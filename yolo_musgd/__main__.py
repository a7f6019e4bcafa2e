"""``python -m yolo_musgd`` is ``yolo-musgd``."""

import sys

from yolo_musgd.cli import main

sys.exit(main())
