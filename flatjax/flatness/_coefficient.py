"""The result of `learning_coefficient`: estimate, interval and diagnosis."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from flatjax._sampling import diagnostics
from flatjax.flatness import _optional

# Limits of the diagnosis: for the temperature, and for the trace relative to its mean and error.
MOST_TEMPERATURE, MOST_DRIFT, MOST_DRIFT_SEMS = 0.05, 0.1, 4.0
LEAST_ACCEPTANCE = 0.1


class LearningCoefficient(NamedTuple):
    r"""The local learning coefficient of a solution, from C chains of T steps.

    Attributes:
      mean: the estimate :math:`\hat\lambda`.
      sem: standard error of `mean`, computed between the means of chains, with C - 1 degrees of
        freedom. It includes the autocorrelation within chains.
      trace: :math:`\beta (E(w_t) - E(w^*))`, (C, T), whose mean is `mean`.
      beta: inverse temperature, per unit of the total energy E.
      localization: gamma, the strength of the spring to the solution.
      num_examples: n.
      num_weights: d, the number of weights that move.
      loss: mean loss per example at the solution.
      temperature: :math:`\langle (w - w^*) \cdot \nabla U \rangle / d`. It is 1 if the chains
        sample the intended distribution; nan for tempered chains.
      temperature_sem: standard error of the temperature, between chains.
      step_size: size of the steps, in units of the preconditioner or as given.
      acceptance: rate at which steps were accepted; for minibatches, in the warm-up.
      ess: effective number of independent draws in the trace, all chains together.
      r_hat: agreement between chains; 1 is good.
      drift: mean of the last third of the trace minus mean of the first third.
      problems: sentences on problems of the estimate; empty if none was found.
      num_evaluations: number of times that a network was differentiated, or evaluated, on a batch.
    """

    mean: float
    sem: float
    trace: np.ndarray
    beta: float
    localization: float
    num_examples: float
    num_weights: int
    loss: float
    temperature: float
    temperature_sem: float
    step_size: float
    acceptance: float
    ess: float
    r_hat: float
    drift: float
    problems: tuple[str, ...]
    num_evaluations: int

    @property
    def converged(self) -> bool:
        """Whether no problems were found."""
        return not self.problems

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Returns the interval of Student's t with this probability."""
        half = scipy.special.stdtrit(len(self.trace) - 1, (1 + level) / 2) * self.sem
        return self.mean - half, self.mean + half

    def __repr__(self) -> str:
        """Returns a table of the estimate and its diagnostics."""
        low, high = self.interval()
        rows = [
            ("lambda", f"{self.mean:.4g} +- {self.sem:.2g} (95%: {low:.4g} to {high:.4g})"),
            ("d / 2", f"{self.num_weights / 2:g}"),
            ("n, beta", f"{self.num_examples:g}, {self.beta:.4g}"),
            ("localization", f"{self.localization:g}"),
            ("chains, steps", f"{self.trace.shape[0]}, {self.trace.shape[1]}"),
            ("ess, r_hat", f"{self.ess:.0f}, {self.r_hat:.3f}"),
            ("temperature", f"{self.temperature:.3f} +- {self.temperature_sem:.3f}"),
            ("acceptance", f"{self.acceptance:.2f}"),
            ("converged", "yes" if self.converged else "no"),
        ]
        rows += [("", problem) for problem in self.problems]
        return "\n".join(f"{name:<14} {value}".rstrip() for name, value in rows)

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Draws each chain's running mean, and the estimate with its interval.

        Args:
          ax: matplotlib axes; the axes of a new figure by default.
          **style: style of the lines, for matplotlib.

        Returns:
          The axes.
        """
        ax = _optional.new_axes("LearningCoefficient.plot", ax)
        steps = np.arange(1, self.trace.shape[1] + 1)
        chains = ax.plot(
            steps, (np.cumsum(self.trace, axis=1) / steps).T, **{"linewidth": 1.0, **style}
        )
        chains[0].set_label(style.get("label", f"{len(chains)} chains, running means"))
        ax.axhline(self.mean, color="black", label="λ, mean of all")
        ax.axhspan(*self.interval(), color="black", alpha=0.15, linewidth=0, label="95 % interval")
        ax.set(xlabel="t, step of the chains", ylabel="λ, local learning coefficient")
        ax.legend(frameon=False)
        return ax


def summarize(trace: np.ndarray, temperature: np.ndarray, **found: Any) -> LearningCoefficient:
    """Makes the result of a trace (C, T) and of the chains' temperatures (C,)."""
    third = max(trace.shape[1] // 3, 1)
    drifts = trace[:, -third:].mean(axis=1) - trace[:, :third].mean(axis=1)
    sem = lambda means: float(means.std(ddof=1) / np.sqrt(len(means)))
    with np.errstate(invalid="ignore", over="ignore"):
        numbers: dict[str, Any] = {
            "mean": float(trace.mean()),
            "sem": sem(trace.mean(axis=1)),
            "temperature": float(temperature.mean()),
            "temperature_sem": sem(temperature),
            "ess": float(diagnostics.effective_sample_size(trace)),
            "r_hat": float(diagnostics.split_r_hat(trace)),
            "drift": float(drifts.mean()),
        }
        result = LearningCoefficient(trace=trace, problems=(), **numbers, **found)
        return result._replace(problems=_problems(result, sem(drifts)))


def _problems(found: LearningCoefficient, drift_sem: float) -> tuple[str, ...]:
    if not np.isfinite(found.trace).all():
        return ("chains diverged: the step is too large; give a smaller step_size.",)
    problems = []
    if found.mean < -2 * found.sem:
        problems.append(
            "energies lie below the solution's: it is no minimum at this beta; train for longer, "
            "or give a larger localization."
        )
    most = MOST_TEMPERATURE + 2 * found.temperature_sem
    if abs(found.temperature - 1) > most:
        problems.append(
            f"temperature {found.temperature:.2f} instead of 1: the step is too large for the "
            "curvature or the noise of the batches, or chains are too short. Give a smaller "
            "step_size, larger batches, one batch of all data, or more steps."
        )
    if not found.r_hat <= diagnostics.MOST_R_HAT:
        problems.append(f"r_hat {found.r_hat:.2f} > 1.05: chains disagree; give more steps.")
    if not found.ess >= diagnostics.LEAST_ESS:
        problems.append(f"ess {found.ess:.0f} < 100: chains mix slowly; give more steps.")
    large = abs(found.drift) > MOST_DRIFT * abs(found.mean)
    if large and abs(found.drift) > MOST_DRIFT_SEMS * drift_sem:
        problems.append(
            f"the trace drifts by {found.drift:.3g}: chains have not settled; give more warm-up, "
            "or a larger localization."
        )
    if found.acceptance < LEAST_ACCEPTANCE:
        problems.append(
            f"acceptance {found.acceptance:.2f} < 0.1: the step is too large; give a smaller one."
        )
    return tuple(problems)
