"""From a checkpoint to what a board runs: FP32 graph, calibration, INT8, accuracy guard, artifact with its evidence."""
