"""Fine-tuning on new classes: the error there, and what is lost of the old classes."""
