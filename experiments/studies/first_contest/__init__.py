"""The first contest: tuned algorithms, tested once on fresh seeds."""
