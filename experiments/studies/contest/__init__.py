"""The contest: algorithms are tuned alike, then tested once on fresh seeds."""
