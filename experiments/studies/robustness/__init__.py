"""What predicts the damage by rounding, pruning, noise and fine-tuning."""
