"""What predicts whether a network survives rounding, pruning, noise and fine-tuning."""
