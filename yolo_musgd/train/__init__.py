"""Training: the trainers that carry the optimizers into Ultralytics, and the record of what they do."""
