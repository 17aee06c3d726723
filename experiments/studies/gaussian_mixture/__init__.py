"""The chapter on Gaussian mixtures: theory beside simulations, as a table and as figures."""
