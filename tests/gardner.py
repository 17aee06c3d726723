"""Replica symmetric entropies of the spherical perceptron by plain quadrature, NumPy and SciPy."""

import numpy as np
import scipy.optimize
import scipy.special

Z = np.linspace(-9, 9, 361)
DZ = np.exp(-(Z**2) / 2) / np.exp(-(Z**2) / 2).sum()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)
ETA = 4.5 * (_NODES + 1)  # of a half-normal number
DETA = 4.5 * _WEIGHTS * np.exp(-(ETA**2) / 2) * np.sqrt(2 / np.pi)


def volume(alpha):
    """Log of the share of weights that give alpha N random patterns their random labels, over N."""

    def entropy(q):
        log_h = scipy.special.log_ndtr(np.sqrt(q / (1 - q)) * Z)
        return (np.log(1 - q) + q / (1 - q)) / 2 + alpha * DZ @ log_h

    return _least(entropy, 0.0)


def around_teacher(alpha, p):
    """The same at overlap p with the teacher that made the labels."""

    def entropy(q):
        fields = (p * ETA[:, None] + np.sqrt(q - p**2) * Z) / np.sqrt(1 - q)
        energetic = DETA @ scipy.special.log_ndtr(fields) @ DZ
        sphere = (np.log(1 - q) + (q - p**2) / (1 - q) - np.log(1 - p**2)) / 2
        return sphere + alpha * energetic

    return _least(entropy, p**2)


def _least(entropy, smallest):
    """Entropies are least at the overlap q of two solutions, in the limit of no replicas."""
    bounds = (smallest + 1e-9, 1 - 1e-9)
    found = scipy.optimize.minimize_scalar(
        entropy, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    return found.fun
