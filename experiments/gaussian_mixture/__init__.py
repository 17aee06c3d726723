"""The chapter on Gaussian mixtures: theory beside simulations, as a table and as figures."""

from experiments.gaussian_mixture.chapter import PARTS, run_chapter

__all__ = ["PARTS", "run_chapter"]
