"""Inference runtimes behind one interface, and the model files that they open."""
