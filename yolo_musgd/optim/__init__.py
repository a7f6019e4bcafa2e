"""Optimizers: momentum-adaptive SGD, Muon hybrids and a registry of every optimizer by name."""
