"""The chapter on Gaussian mixtures: theory and simulations."""
