"""Kendall's tau of pairs within groups, by loops over the pairs."""

import itertools

import numpy as np


def sign(first, second):
    """Of a difference; NaN ties with every value."""
    return float(first > second) - float(first < second)


def tau_within(x, y, groups):
    """Tau-b of all pairs of the same group."""
    pairs = [
        (sign(x[i], x[j]), sign(y[i], y[j]))
        for i, j in itertools.combinations(range(len(x)), 2)
        if groups[i] == groups[j]
    ]
    first, second = np.array(pairs).T
    return first @ second / np.sqrt((first @ first) * (second @ second))


def partial_tau_within(x, y, controls, groups):
    """The same, given the controls: from the inverse of the matrix of taus."""
    columns = [x, y, *controls]
    matrix = [[tau_within(one, other, groups) for other in columns] for one in columns]
    inverse = np.linalg.inv(matrix)
    return -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
