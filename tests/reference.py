"""The algorithms of flatjax as plain NumPy loops, each written down from its equations alone.

Nothing here knows JAX or optax. The loops are slow and literal on purpose: one replica after
the other, one step after the other, every schedule spelled out as a list. They are what
`test_against_numpy.py` compares the library with.

The parameters w of one network are a *point*: a NumPy object array whose entries are the leaves
(a matrix, a vector, ...), so that `w - eta * u` acts leaf by leaf and reads like the equation.
`gradient(w, a, t)` is the gradient of replica a's own objective at its step t, as a point.
A *path* is the list of what an algorithm holds after each gradient step. Every schedule is a list
with a number for each step, or for each step and leaf.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Point = np.ndarray
Gradient = Callable[[Point, int, int], Point]


def point(leaves: Sequence[np.ndarray]) -> Point:
    """Packs leaves into a point; one by one, or NumPy would merge leaves of equal shape."""
    w = np.empty(len(leaves), dtype=object)
    for i, leaf in enumerate(leaves):
        w[i] = np.asarray(leaf, dtype=np.float64)
    return w


class Momentum:
    """m <- g + b m; the direction is g + b m (Nesterov) or m (heavy ball; b = None is 0)."""

    def __init__(self, decay: float | None, nesterov: bool):
        self.decay, self.nesterov, self.m = decay or 0.0, nesterov, 0.0

    def direction(self, g: Point) -> Point:
        """Takes in the gradient g and returns the direction of descent."""
        self.m = g + self.decay * self.m
        return g + self.decay * self.m if self.nesterov else self.m


def barycentre(w: list[Point]) -> Point:
    """The mean of the replicas: wbar = (1/y) sum_a w_a."""
    return sum(w) / len(w)


def replicated_sgd(
    w: list[Point],
    gradient: Gradient,
    learning_rate: Sequence[float],
    gamma: Sequence[float],
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    period: int = 1,
    decoupled: bool = True,
) -> list[list[Point]]:
    """SGD on sum_a L(w_a) + (gamma/2) sum_a ||w_a - wbar||^2, y replicas from w = [w_1, ..., w_y].

    `learning_rate` and `gamma` list one value a step. Coupled are the last of every `period` steps
    (t = K-1, 2K-1, ...), with K times the force. The force is part of the gradient,
    or, decoupled, w_a <- c + (w_a - c) exp(-K eta gamma) follows the step, c the new barycentre.
    """
    velocity = [Momentum(momentum, nesterov) for _ in w]
    path = []
    for t, (eta, gamma_t) in enumerate(zip(learning_rate, gamma, strict=True)):
        force = period * gamma_t if t % period == period - 1 else 0.0
        center = barycentre(w)
        moved = []
        for a, w_a in enumerate(w):
            g = gradient(w_a, a, t) + weight_decay * w_a
            if not decoupled:
                g = g + force * (w_a - center)
            moved.append(w_a - eta * velocity[a].direction(g))
        if decoupled:
            center = barycentre(moved)
            moved = [center + np.exp(-eta * force) * (w_a - center) for w_a in moved]
        w = moved
        path.append(w)
    return path


def langevin(
    anchor: Point,
    gradient: Callable[[Point, int], Point],
    steps: Sequence[int],
    learning_rate: Sequence[float],
    gamma: float,
    noise: Sequence[Point] | None,
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    averaging_decay: float = 0.75,
    noise_scale: float = 1e-4,
    decoupled: bool = True,
) -> tuple[Point, list[Point]]:
    """One inner loop of Entropy-SGD, from w' = mu = anchor: returns mu and the path of w'.

    w' <- w' - eta' (grad + gamma (w' - w)) + sqrt(2 eta') eps N(0, 1), with weight decay and fresh
    momentum, then mu <- alpha mu + (1 - alpha) w'. Decoupled: the anchor pulls by exp(-eta' gamma)
    after the step and before the noise. `steps` are the gradient counts of this loop, which index
    the whole run's `learning_rate` and `noise` (standard normal points, or None for no noise).
    """
    w, mu = anchor, anchor
    velocity = Momentum(momentum, nesterov)
    path = []
    for t in steps:
        eta = learning_rate[t]
        g = gradient(w, t) + weight_decay * w
        if not decoupled:
            g = g + gamma * (w - anchor)
        w = w - eta * velocity.direction(g)
        if decoupled:
            w = anchor + (w - anchor) * np.exp(-eta * gamma)
        if noise is not None:
            w = w + math.sqrt(2 * eta) * noise_scale * noise[t]
        mu = averaging_decay * mu + (1 - averaging_decay) * w
        path.append(w)
    return mu, path


def entropy_sgd(
    w: Point,
    gradient: Callable[[Point, int], Point],
    learning_rate: Sequence[float],
    gamma: Sequence[float],
    outer_learning_rate: Sequence[float],
    *,
    inner_steps: int = 5,
    noise: Sequence[Point] | None = None,
    outer_momentum: float | None = None,
    outer_nesterov: bool = False,
    outer_scaling: str = "none",
    **inner,
) -> list[Point]:
    """Entropy-SGD from w: L Langevin steps around the anchor, then w <- w - eta (w - mu).

    `learning_rate` (eta') has one value a gradient; `gamma` and `outer_learning_rate` (eta) one an
    outer step. The outer gradient is w - mu, or gamma (w - mu), or (w - mu) / eta' with the eta' of
    the loop's last step. `inner`: the options of `langevin`.
    The path holds w' after every Langevin step but the L-th, and there the new anchor.
    """
    velocity = Momentum(outer_momentum, outer_nesterov)
    path = []
    for s, (eta, gamma_s) in enumerate(zip(outer_learning_rate, gamma, strict=True)):
        steps = range(s * inner_steps, (s + 1) * inner_steps)
        mu, inner_path = langevin(w, gradient, steps, learning_rate, gamma_s, noise, **inner)
        scaling = {"none": 1.0, "gamma": gamma_s, "learning_rate": 1 / learning_rate[steps[-1]]}
        w = w - eta * velocity.direction(scaling[outer_scaling] * (w - mu))
        path += [*inner_path[:-1], w]
    return path


def parle(
    w: list[Point],
    gradient: Gradient,
    learning_rate: Sequence[float],
    gamma: Sequence[float],
    replica_gamma: Sequence[float],
    outer_learning_rate: Sequence[float],
    *,
    inner_steps: int = 5,
    noise: Sequence[Sequence[Point]] | None = None,
    outer_momentum: float | None = None,
    outer_nesterov: bool = False,
    decoupled: bool = True,
    **inner,
) -> list[list[Point]]:
    """Parle: y replicas of Entropy-SGD whose anchors w_a are coupled to their barycentre wbar.

    The outer gradient is (w_a - mu_a)/eta' + gamma_r (w_a - wbar), gamma_r the `replica_gamma` of
    the outer step. Decoupled: both couplings, the anchors' by exp(-eta gamma_r) after their step.
    `noise[a]` lists replica a's standard normal points; the rest is as in `entropy_sgd`.
    """
    velocity = [Momentum(outer_momentum, outer_nesterov) for _ in w]
    path = []
    schedules = zip(outer_learning_rate, gamma, replica_gamma, strict=True)
    for s, (eta, gamma_s, gamma_r) in enumerate(schedules):
        steps = range(s * inner_steps, (s + 1) * inner_steps)
        center = barycentre(w)
        moved, inner_paths = [], []
        for a, w_a in enumerate(w):
            mu, inner_path = langevin(
                w_a,
                lambda point, t, a=a: gradient(point, a, t),
                steps,
                learning_rate,
                gamma_s,
                None if noise is None else noise[a],
                decoupled=decoupled,
                **inner,
            )
            g = (w_a - mu) / learning_rate[steps[-1]]
            if not decoupled:
                g = g + gamma_r * (w_a - center)
            moved.append(w_a - eta * velocity[a].direction(g))
            inner_paths.append(inner_path)
        if decoupled:
            center = barycentre(moved)
            moved = [center + np.exp(-eta * gamma_r) * (w_a - center) for w_a in moved]
        w = moved
        path += [list(replicas) for replicas in zip(*inner_paths, strict=True)]
        path[-1] = w
    return path


def equal_average(path: Sequence[Point], start: int, period: int = 1) -> list[Point]:
    """SWA: after each step t >= start, the mean of the iterates start, start + K, ... up to t."""
    averages = []
    for t in range(start, len(path)):
        averaged = path[start : t + 1 : period]
        averages.append(sum(averaged) / len(averaged))
    return averages


def exponential_average(path: Sequence[Point], start: int, decay: float) -> list[Point]:
    """EMA: e = w_start, then e <- decay e + (1 - decay) w_t; the average after each t >= start."""
    averages = [path[start]]
    for w in path[start + 1 :]:
        averages.append(decay * averages[-1] + (1 - decay) * w)
    return averages


class Adam:
    """The direction of Adam with its corrections of bias; `decay` is AdamW's, on the weights."""

    def __init__(self, first=0.9, second=0.999, epsilon=1e-8, decay=0.0):
        self.first, self.second, self.epsilon, self.decay = first, second, epsilon, decay
        self.m, self.v, self.t = 0.0, 0.0, 0

    def direction(self, g: Point, w: Point) -> Point:
        """Takes in the gradient g at w and returns the direction of descent."""
        self.t += 1
        self.m = self.first * self.m + (1 - self.first) * g
        self.v = self.second * self.v + (1 - self.second) * g**2
        m, v = self.m / (1 - self.first**self.t), self.v / (1 - self.second**self.t)
        return m / (v**0.5 + self.epsilon) + self.decay * w


def diloco(
    w: list[Point],
    gradient: Gradient,
    learning_rate: Sequence[float],
    *,
    period: int,
    outer_learning_rate: float = 0.7,
    outer_momentum: float | None = 0.9,
    outer_nesterov: bool = True,
    decay: float = 0.0,
    fragments: Sequence[Sequence[bool]] = ((True, True),),
    delay: int = 0,
    blend: float = 0.0,
    adam: bool = True,
) -> list[list[Point]]:
    """DiLoCo: workers with AdamW (or plain SGD) and a center theta, which starts at their mean.

    After the steps K, 2K, ... (counted from 1) the center takes an outer step on theta - mean(w)
    and w_a <- blend w_a + (1 - blend) theta. Streaming: `fragments` lists which leaves belong to
    each part; the p-th of P has its theta, momentum and steps K + floor(p K / P), ... (and the one
    before K, if there is one). A delay of tau uses the theta - mean(w) that was measured tau steps
    before.
    """
    inner = [Adam(decay=decay) for _ in w]
    theta = [barycentre(w) for _ in fragments]
    velocity = [Momentum(outer_momentum, outer_nesterov) for _ in fragments]
    measured = [{} for _ in fragments]
    path = []
    for t, eta in enumerate(learning_rate):
        moved = []
        for a, w_a in enumerate(w):
            g = gradient(w_a, a, t)
            moved.append(w_a - eta * (inner[a].direction(g, w_a) if adam else g))
        w = moved
        for p, members in enumerate(fragments):
            offset = p * period // len(fragments)
            if (t + 1 - offset) % period == 0:
                measured[p][t] = theta[p] - barycentre(w)
            if t - delay in measured[p]:
                step = velocity[p].direction(measured[p].pop(t - delay))
                theta[p] = theta[p] - outer_learning_rate * step
                felt = np.array(members)
                pulled = [blend * w_a + (1 - blend) * theta[p] for w_a in w]
                w = [point(np.where(felt, new, old)) for new, old in zip(pulled, w, strict=True)]
        path.append(w)
    return path


def elastic_averaging(
    w: list[Point], gradient: Gradient, learning_rate: float, alpha: float, beta: float, steps: int
) -> list[list[Point]]:
    """EASGD, the center first: theta += beta (mean(w) - theta), then w_a -= alpha (w_a - theta)."""
    theta = barycentre(w)
    path = []
    for t in range(steps):
        w = [w_a - learning_rate * gradient(w_a, a, t) for a, w_a in enumerate(w)]
        theta = theta + beta * (barycentre(w) - theta)
        w = [w_a - alpha * (w_a - theta) for w_a in w]
        path.append(w)
    return path
