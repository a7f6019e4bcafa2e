"""Power sensors, the state of the board, and the sampler that reads both beside the work."""
