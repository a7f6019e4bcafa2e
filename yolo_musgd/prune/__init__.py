"""Structural pruning of Ultralytics models: fewer channels, stock classes, checkpoints that load anywhere."""
