"""The first contest: algorithms tuned alike on validation data, then tested on fresh seeds."""
