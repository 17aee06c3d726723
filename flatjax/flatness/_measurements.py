"""The measures of a report, each with the rows that it adds to the table."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np
import optax

from flatjax import _additivity, _masks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax.flatness import _inputs
from flatjax.flatness._changes import matrices
from flatjax.flatness._effort import Cost, Effort, cost_of
from flatjax.flatness._hessian import spectral_density, top_eigenvalues, trace
from flatjax.flatness._learning_coefficient import learning_coefficient
from flatjax.flatness._local_energy import LocalEnergy, local_energy
from flatjax.flatness._operators import OperatorFn, hessian_operator
from flatjax.flatness._passes import BY_BATCH, Passes, by_batch, weighted
from flatjax.flatness._pruning import pruning
from flatjax.flatness._quantization import quantization
from flatjax.flatness._rows import Row, row
from flatjax.flatness._sam_units import sam_units
from flatjax.flatness._sharpness import worst_case_sharpness
from flatjax.flatness._weight_noise import tolerances

# An eigenvalue counts as negative if it is below minus this share of the largest one. Ritz values
# closer to 0 are not accurate.
NEGATIVE = 0.01


class Measurements:
    """The measures of one block of weights, compiled at first use, for any solution.

    Args:
      eval_fn: see `flatjax.evaluate`.
      quantities: names of the summed quantities, the most important first.
      loss: name of the differentiable quantity.
      num_batches: K.
      effort: settings of the measures.
      mask: mask of the block.
      block: name of the block.
    """

    def __init__(
        self,
        eval_fn: EvalFn,
        quantities: Sequence[str],
        loss: str,
        num_batches: int,
        effort: Effort,
        mask: Mask,
        block: str,
    ):
        # `report` has checked that eval_fn returns sums.
        self.eval_fn, self.labelled = _additivity.sums(eval_fn), by_batch(eval_fn, num_batches)
        self.quantities, self.main, self.loss = quantities, quantities[0], loss
        self.effort, self.mask, self.block = effort, mask, block
        self._made: dict[str, Callable[..., Any]] = {}

    def __call__(
        self,
        measures: Sequence[str],
        params: chex.ArrayTree,
        passes: Passes,
        key: chex.PRNGKey,
        state: tuple[Any, ...],
        done: Callable[[Cost], None],
    ) -> tuple[list[Row], dict[str, Any]]:
        """Returns the rows of some measures of a solution, and their results by name."""
        rows: list[Row] = []
        results: dict[str, Any] = {}
        for name in measures:
            cost = cost_of([name], self.effort)
            if name in ("local_energy", "weight_noise"):
                cost = Cost() if "local_energy" in results else cost
                if "local_energy" not in results:
                    results["local_energy"] = self._noise(params, passes.plain, key, *state)
                energy = results["local_energy"]
                is_energy = name == "local_energy"
                rows += self._of_energy(energy) if is_energy else self._of_tolerance(energy)
            else:
                found, results[name] = getattr(self, f"_{name}")(params, passes, key, state)
                rows += found
            done(cost)
        return rows, results

    # --- noise ------------------------------------------------------------------------------------

    @functools.cached_property
    def _noise(self):
        effort = self.effort
        measure = local_energy(
            self.eval_fn, sigmas=effort.sigmas, num_samples=effort.num_samples, mask=self.mask
        )

        def quietly(*given):
            with np.errstate(invalid="ignore", over="ignore"):  # some networks overflow
                return measure(*given)

        return quietly

    def _of_energy(self, energy: LocalEnergy) -> list[Row]:
        return [
            self._row(
                "local_energy",
                f"local energy, {name}",
                f"σ = {sigma:g}",
                energy.mean[name][g],
                "draws",
                energy.draws[name][g],
            )
            for name in self.quantities
            for g, sigma in enumerate(energy.sigma)
        ]

    def _of_tolerance(self, energy: LocalEnergy) -> list[Row]:
        """Makes rows of the tolerated noise; their units are jackknife pseudo-values."""
        rise, num = self.effort.target_rise, energy.draws[self.main].shape[1]
        (tolerance,), (others,) = tolerances(energy, self.main, np.array([rise]))
        note = ""
        if np.isnan(tolerance):
            note = (
                f"tolerated noise: the {self.main} does not rise by {rise:g} up to σ = "
                f"{energy.sigma[-1]:g}."
            )
        return [
            self._row(
                "weight_noise",
                "tolerated noise σ*",
                f"{self.main} + {rise:g}",
                tolerance,
                "draws",
                num * tolerance - (num - 1) * others,
                larger_is_sharper=False,
                note=note,
            )
        ]

    # --- values of each batch ---------------------------------------------------------------------

    def _sam_sharpness(self, params, passes, key, state):
        return self._sam("sam_sharpness", "SAM sharpness", self.effort.rho, params, passes, state)

    def _adaptive_sharpness(self, params, passes, key, state):
        rho = self.effort.adaptive_rho
        return self._sam("adaptive_sharpness", "adaptive sharpness", rho, params, passes, state)

    def _sam(self, name, label, rho, params, passes, state):
        measure = self._compiled(
            name,
            lambda: sam_units(
                self.labelled,
                rho=rho,
                adaptive=name == "adaptive_sharpness",
                quantity=self.loss,
                mask=self.mask,
            ),
        )
        found, units = measure(params, passes.labelled, *state)
        given = f"{label}, {self.loss}", f"ρ = {rho:g}", found.rise[self.loss]
        return [self._row(name, *given, "batches", units, passes.shares)], found

    def _worst_case_sharpness(self, params, passes, key, state):
        name, rho = "worst_case_sharpness", self.effort.rho
        measure = self._compiled(
            name,
            lambda: worst_case_sharpness(
                self.labelled,
                rho=rho,
                steps=self.effort.ascent_steps,
                quantity=self.loss,
                mask=self.mask,
            ),
        )
        found = measure(params, passes.labelled, key, *state)
        label = f"worst case in a ball, {self.loss}"
        return self._by_batch(name, label, [f"ρ = {rho:g}"], self.loss, found), found

    def _quantization(self, params, passes, key, state):
        bits = self.effort.bits
        make = lambda mask: quantization(self.labelled, bits=bits, mask=mask)
        found = self._changed("quantization", make, params, passes, state)
        label, settings = f"rounded weights, {self.main}", [f"{b} bits" for b in bits]
        return self._by_batch("quantization", label, settings, self.main, found), found

    def _pruning(self, params, passes, key, state):
        sparsity = self.effort.sparsity
        make = lambda mask: pruning(self.labelled, sparsity=sparsity, mask=mask)
        found = self._changed("pruning", make, params, passes, state)
        label, settings = f"pruned weights, {self.main}", [f"{100 * s:g} % less" for s in sparsity]
        return self._by_batch("pruning", label, settings, self.main, found), found

    def _changed(self, name, make, params, passes, state):
        """Measures changes of matrices; returns None if the block has no matrices."""
        in_block = lambda _, w, is_matrix: _masks.is_weight(w) and is_matrix
        fixed = jax.tree.map(lambda w: False, params)
        both = _masks.map_masked(in_block, self.mask, params, fixed, params, matrices(params))
        if not any(jax.tree.leaves(both)):
            return None
        mask = lambda given: jax.tree.unflatten(jax.tree.structure(given), jax.tree.leaves(both))
        return self._compiled(name, lambda: make(mask))(params, passes.labelled, None, *state)

    def _by_batch(self, name, label, settings, quantity, found) -> list[Row]:
        """Makes a row for each setting, with the contributions of the batches as units."""
        if found is None:
            return []
        values = np.atleast_1d(found.rise[quantity])
        parts = np.reshape(found.rise[BY_BATCH + quantity], (len(values), -1))
        shares = found.reference[BY_BATCH + "count"]
        return [
            self._row(name, label, setting, value, "batches", units, shares)
            for setting, value, units in zip(settings, values, parts, strict=True)
        ]

    # --- curvature --------------------------------------------------------------------------------

    @functools.cached_property
    def _hessian(self) -> OperatorFn:
        return hessian_operator(self.eval_fn, quantity=self.loss, mask=self.mask)

    def _top_eigenvalue(self, params, passes, key, state):
        """Makes the row; to first order, batch b changes the eigenvalue by v' H_b v."""
        measure = top_eigenvalues(self._hessian, num_matvecs=self.effort.num_matvecs)
        found = measure(params, passes.plain, key, *state)
        vector = jax.tree.map(lambda leaf: leaf[0], found.vectors)
        moving = _inputs.weights(_inputs.measured(params, self.mask), self.mask)
        vector = jax.tree.map(
            lambda w, v: None if w is None else v, moving, vector, is_leaf=lambda leaf: leaf is None
        )
        parts = []
        for batch in passes.plain:
            product = self._hessian(params, [batch], *state).matvec(vector)
            parts.append(float(optax.tree.vdot(vector, product)))
        units = weighted(passes.shares, parts)
        rows = [
            self._row(
                "top_eigenvalue",
                "largest eigenvalue",
                "Hessian",
                found.values[0],
                "batches",
                units,
                passes.shares,
            )
        ]
        return rows, found

    def _trace(self, params, passes, key, state):
        measure = trace(self._hessian, num_samples=self.effort.num_probes)
        found = measure(params, passes.plain, key, *state)
        given = "trace", "trace", "Hessian", found.mean, "random vectors", found.draws
        return [self._row(*given)], found

    def _spectral_density(self, params, passes, key, state):
        measure = spectral_density(
            self._hessian,
            num_matvecs=self.effort.num_matvecs,
            num_samples=self.effort.density_probes,
        )
        found = measure(params, passes.plain, key, *state)
        is_negative = found.nodes < -NEGATIVE * np.abs(found.nodes).max()
        shares = (found.weights * is_negative).sum(axis=1)
        label, setting = "negative eigenvalues", "share, Hessian"
        given = "spectral_density", label, setting, shares.mean(), "random vectors", shares
        return [self._row(*given)], found

    # --- volume -----------------------------------------------------------------------------------

    def _learning_coefficient(self, params, passes, key, state):
        effort = self.effort
        measure = self._compiled(
            "learning_coefficient",
            lambda: learning_coefficient(
                self.eval_fn,
                quantity=self.loss,
                localization=effort.localization,
                mask=self.mask,
                num_chains=effort.num_chains,
                num_steps=effort.num_steps,
                num_warmup=effort.num_warmup,
            ),
        )
        found = measure(params, passes.plain, key, *state)
        note = " ".join(f"learning coefficient: {problem}" for problem in found.problems)
        row = self._row(
            "learning_coefficient",
            "learning coefficient λ",
            f"γ = {effort.localization:g}",
            found.mean,
            "chains",
            found.trace.mean(axis=1),
            note=note,
        )
        return [row], found

    def _compiled(self, name: str, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Returns the measure of this name, made once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _row(self, measure: str, *given: Any, **options: Any) -> Row:
        return row(measure, self.block, *given, **options)
