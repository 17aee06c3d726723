"""Whether flatness predicts the test error: all measures on a full factorial."""
