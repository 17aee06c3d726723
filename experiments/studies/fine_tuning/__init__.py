"""Fine-tuning on new classes, and what is lost of the old ones."""
