"""Patterns of the Gaussian mixture for tests at finite size."""

import jax
import numpy as np

from flatjax.gaussian_mixture import sample


def patterns_of(num, num_features, seed=0):
    """A sample of so many balanced patterns."""
    return sample(jax.random.key(seed), num_features, alpha=num / num_features, delta=1.0)


def design_of(patterns):
    """The patterns times their labels, scaled so that fields are of order 1."""
    label, x = np.asarray(patterns.label, float), np.asarray(patterns.x, float)
    return label[:, None] * x / np.sqrt(x.shape[1])
