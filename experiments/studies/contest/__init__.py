"""The contest: every algorithm tuned alike on validation data, then tested once on fresh seeds."""
