"""Points of empirical risk minimisation: closed forms, ridge, norm, margin."""

import jax.numpy as jnp
import numpy as np

from experiments.studies.simulations import Point
from flatjax import gaussian_mixture as gm
from flatjax.gaussian_mixture import losses, simulate

LOSSES = {"square": losses.square(), "logistic": losses.logistic(), "hinge": losses.hinge()}

BALANCED = {"alpha": 1.0, "delta": 1.0, "rho": 0.5}
UNBALANCED = {"alpha": 2.0, "delta": 0.5, "rho": 0.2}


def points(num_features: int, seeds: int) -> list[Point]:
    """Makes all points of this file, at N features."""
    found = []
    for mixture in (BALANCED, UNBALANCED, {"alpha": 5.0, "delta": 0.3, "rho": 0.1}):
        found += _closed_forms(mixture, num_features, seeds)
    for name in LOSSES:
        for lam in (0.01, 0.1, 1.0, 10.0):
            found.append(_ridge("ridge", name, lam, BALANCED, num_features, seeds))
        for lam in (0.01, 0.1, 0.5, 2.0):
            found.append(_ridge("ridge", name, lam, UNBALANCED, num_features, seeds))
    for norm in (0.1, 1.0, 10.0, 30.0):
        found.append(_norm("logistic", norm, BALANCED, num_features, seeds))
    for name in ("square", "hinge"):
        for norm in (0.1, 1.0):
            found.append(_norm(name, norm, BALANCED, num_features, 2 * seeds))
    for alpha, lam in ((0.3, 0.1), (0.3, 1.0), (3.0, 0.1), (3.0, 1.0), (6.0, 0.03)):
        mixture = {"alpha": alpha, "delta": 1.0, "rho": 0.5}
        more = 2 * seeds if alpha < 1 else seeds  # few patterns give large fluctuations
        found.append(_ridge("phase diagram", "logistic", lam, mixture, num_features, more))
    for mixture in (BALANCED, UNBALANCED):
        found.append(_margin(mixture, num_features, seeds))
    return found


def _sample(key, num_features, mixture):
    return gm.sample(key, num_features, **mixture)


def _measured(weights, bias, patterns, mixture):
    m, q = gm.overlaps(weights, patterns.signal)
    error = gm.generalization_error(m, q, bias, delta=mixture["delta"], rho=mixture["rho"])
    return {"test_error": error, "m": m, "q": q}


def _closed_forms(mixture, num_features, seeds):
    """Hebb, without and with the bias of the log-odds, and the nearest centroid."""

    def directions(key):
        patterns = _sample(key, num_features, mixture)
        x, label, scale = patterns.x, patterns.label, np.sqrt(num_features)
        mean = lambda members: members @ x / members.sum()
        up, down = mean(label == 1), mean(label == -1)
        return patterns, scale * jnp.mean(label[:, None] * x, axis=0), up, down

    def hebb(key, bias):
        patterns, weights, *_ = directions(key)
        return {"test_error": _measured(weights, bias, patterns, mixture)["test_error"]}

    def centroid(key):
        patterns, _, up, down = directions(key)
        weights, bias = np.sqrt(num_features) * (up - down) / 2, (down @ down - up @ up) / 4
        return {"test_error": _measured(weights, bias, patterns, mixture)["test_error"]}

    params = dict(mixture) | {"num_features": num_features}
    fitted = gm.hebb(**mixture, fit_bias=True)
    constructors = [
        ("Hebb", gm.hebb(**mixture), lambda key: hebb(key, 0.0)),
        ("Hebb with bias (Bayes)", fitted, lambda key: hebb(key, fitted.bias)),
        ("centroid", gm.centroid(**mixture), centroid),
    ]
    if mixture["rho"] == 0.5:  # then all three are equal
        constructors = constructors[:1]
    return [
        Point(name, mixture["alpha"], params, {"test_error": theory.test_error}, run, seeds)
        for name, theory, run in constructors
    ]


def _ridge(figure, name, lam, mixture, num_features, seeds):
    loss, fit_bias = LOSSES[name], mixture["rho"] != 0.5
    theory = gm.erm(loss, lam=lam, fit_bias=fit_bias, **mixture)

    def run(key):
        patterns = _sample(key, num_features, mixture)
        found = simulate.minimise(patterns, loss, lam=lam, fit_bias=fit_bias)
        values = _measured(found.weights, found.bias, patterns, mixture)
        fields = patterns.x @ np.asarray(found.weights) / np.sqrt(num_features) + found.bias
        return values | {"train_error": np.mean(patterns.label * fields <= 0)}

    return Point(
        curve=f"{figure}: {name}, rho={mixture['rho']:g}",
        x=lam,
        params=dict(mixture) | {"loss": name, "lam": lam, "num_features": num_features},
        theory={name: getattr(theory, name) for name in ("test_error", "m", "q", "train_error")},
        simulate=run,
        seeds=seeds,
    )


def _norm(name, norm, mixture, num_features, seeds):
    """At a fixed norm: each sample is searched for the ridge that gives this norm."""
    loss = LOSSES[name]
    theory = gm.erm(loss, norm=norm, **mixture)

    def run(key):
        patterns = _sample(key, num_features, mixture)
        log_lam = np.log(theory.lam) + np.array([0.0, 0.1])

        def excess(log_lam):
            found = simulate.minimise(patterns, loss, lam=float(np.exp(log_lam)))
            return np.log(np.mean(np.square(found.weights)) / norm), found

        values = [excess(value)[0] for value in log_lam]
        for _ in range(20):  # steps of the secant method
            slope = (values[1] - values[0]) / (log_lam[1] - log_lam[0])
            log_lam = np.array([log_lam[1], log_lam[1] - values[1] / slope])
            value, found = excess(log_lam[1])
            values = [values[1], value]
            if abs(value) < 1e-4:
                break
        measured = _measured(found.weights, 0.0, patterns, mixture)
        return {"test_error": measured["test_error"], "lam": np.exp(log_lam[1])}

    return Point(
        curve=f"norm: {name}",
        x=norm,
        params=dict(mixture) | {"loss": name, "norm": norm, "num_features": num_features},
        theory={"test_error": theory.test_error, "lam": theory.lam},
        simulate=run,
        seeds=seeds,
    )


def _margin(mixture, num_features, seeds):
    """The hinge loss finds the largest margin once its ridge is small."""
    theory = gm.max_margin(**mixture)

    def run(key):
        patterns = _sample(key, num_features, mixture)
        found = simulate.minimise(
            patterns, LOSSES["hinge"], lam=1e-3, fit_bias=mixture["rho"] != 0.5
        )
        values = _measured(found.weights, found.bias, patterns, mixture)
        return {"test_error": values["test_error"], "margin": 1 / np.sqrt(values["q"])}

    return Point(
        curve="largest margin",
        x=mixture["alpha"],
        params=dict(mixture) | {"num_features": num_features},
        theory={"test_error": theory.test_error, "margin": theory.margin},
        simulate=run,
        seeds=seeds,
    )
