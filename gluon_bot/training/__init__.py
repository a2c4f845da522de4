"""How it is trained: the loop, its state, the optimizer, losses and metrics."""
