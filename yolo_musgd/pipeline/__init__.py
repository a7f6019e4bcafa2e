"""From data to board in one command: train, prune, fine-tune, quantize, check, bundle, report."""
