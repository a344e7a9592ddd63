"""Training: configuration, the step module, the loop, checkpoints and what a run leaves behind."""
