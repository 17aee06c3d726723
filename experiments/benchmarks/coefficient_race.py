"""flatjax's and devinterp's local learning coefficients of the same network.

This needs PyTorch and devinterp: pip install devinterp.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.machine import describe_machine, torch_version
from experiments.benchmarks.race import Clock, race
from experiments.engine import console
from experiments.report.store import RESULTS, write_json
from flatjax import flatness

WIDTHS = (20, 32, 10)


@dataclasses.dataclass(frozen=True)
class CoefficientRace:
    """Compare a chain's step time and the estimates of flatjax and devinterp.

    A perceptron with one hidden layer is trained on the labels of a noisy teacher. Both tools make
    the same plain steps on minibatches. "PyTorch loop" is devinterp's optimizer without its data
    loader.

    Example: python -m experiments.benchmarks.coefficient_race
    """

    chains: int = 8
    """Chains of each tool."""
    steps: int = 500
    """Recorded steps of each chain."""
    warmup: int = 500
    """Warm-up steps of each chain."""
    examples: int = 2048
    """n."""
    batch_size: int = 128
    """Examples in a batch."""
    step_size: float = 2e-5
    """Step size epsilon of the plain steps."""
    localization: float = 100.0
    """gamma."""
    rounds: int = 3
    """Number of rounds. Each round times everything once, in turn; median ratios count."""
    clock: Clock = "cpu"
    """wall, or cpu: time of this process on all cores, for a busy machine."""
    out: pathlib.Path | None = RESULTS / "benchmarks" / "coefficient_race.json"
    """JSON file for the result."""

    def run(self) -> None:
        """Times, prints and writes."""
        found = self.measure()
        for name, value in found.items():
            print(f"{name}: {value}")
        if self.out is not None:
            settings = dataclasses.asdict(self) | {"out": None}
            head = {"settings": settings, "machine": describe_machine(), "torch": torch_version()}
            write_json(self.out.absolute(), head | found)

    def measure(self) -> dict[str, Any]:
        """Returns ratios, microseconds per step, and estimates with their errors."""
        params, images, labels = _trained(self.examples)
        ours = self._ours(params, images, labels)
        candidates = {"flatjax": ours} | self._theirs(params, images, labels)
        estimates: dict[str, list[np.ndarray]] = {name: [] for name in candidates}

        def keep(name, call):
            return lambda: estimates[name].append(call())

        calls = {name: keep(name, call) for name, call in candidates.items()}
        times = race(calls, self.rounds, self.clock, rest=0.1)
        per_step = 1e6 / (self.chains * (self.steps + self.warmup))
        last = {name: each[-1] for name, each in estimates.items()}
        return {
            "ratios": {
                f"{name} / flatjax": float(np.median(times[name] / times["flatjax"]))
                for name in times
                if name != "flatjax"
            },
            "microseconds": {name: float(np.median(t)) * per_step for name, t in times.items()},
            "means": {name: float(chains.mean()) for name, chains in last.items()},
            "sems": {
                name: float(chains.std(ddof=1) / np.sqrt(self.chains))
                for name, chains in last.items()
            },
        }

    def _ours(self, params, images, labels):
        def eval_fn(params, batch):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                _logits(params, batch[0]), batch[1]
            )
            return {"loss": losses.sum(), "count": len(losses)}

        size = self.batch_size
        batches = [
            (jnp.asarray(images[i : i + size]), jnp.asarray(labels[i : i + size]))
            for i in range(0, self.examples, size)
        ]
        measure = flatness.learning_coefficient(
            eval_fn,
            step_size=self.step_size,
            localization=self.localization,
            num_chains=self.chains,
            num_steps=self.steps,
            num_warmup=self.warmup,
        )
        return lambda: measure(params, batches, 0).trace.mean(axis=1)

    def _theirs(self, params, images, labels):
        import torch
        from devinterp.optim.sgmcmc import SGMCMC
        from devinterp.slt.sampler import sample_single_chain

        os.environ["TQDM_DISABLE"] = "1"
        torch.set_num_threads(1)
        network = _torch_network(torch, params)
        x, y = torch.tensor(images), torch.tensor(labels).long()
        criterion = torch.nn.functional.cross_entropy
        n_beta = self.examples / np.log(self.examples)
        reference = float(criterion(network(x), y).detach())
        options = {"lr": self.step_size, "localization": self.localization, "nbeta": n_beta}
        evaluate = lambda model, data: (criterion(model(data["input_ids"]), data["labels"]), {})
        examples = [{"input_ids": a, "labels": b} for a, b in zip(x, y, strict=True)]

        def devinterp():
            losses = np.zeros((self.chains, self.steps))

            def record(loss, draw, chain, **_):
                losses[chain, draw] = float(loss)

            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                for chain in range(self.chains):
                    sample_single_chain(
                        network,
                        examples,
                        evaluate,
                        dict.fromkeys(name for name, _ in network.named_parameters()),
                        num_draws=self.steps,
                        num_burnin_steps=self.warmup,
                        sampling_method=SGMCMC.sgld,
                        sampling_method_kwargs=options,
                        chain=chain,
                        seed=chain,
                        dataloader_seed=chain,
                        callbacks=[record],
                        batch_size=self.batch_size,
                    )
            return n_beta * (losses.mean(axis=1) - reference)

        def loop():
            rng, losses = np.random.default_rng(0), np.zeros((self.chains, self.steps))
            for chain in range(self.chains):
                model = _torch_network(torch, params)
                optimizer = SGMCMC.sgld(model.parameters(), **options)
                for step in range(-self.warmup, self.steps):
                    start = self.batch_size * rng.integers(self.examples // self.batch_size)
                    rows = slice(start, start + self.batch_size)
                    optimizer.zero_grad()
                    loss = criterion(model(x[rows]), y[rows])
                    loss.backward()
                    optimizer.step()
                    if step >= 0:
                        losses[chain, step] = loss.item()
            return n_beta * (losses.mean(axis=1) - reference)

        return {"devinterp": devinterp, "PyTorch loop": loop}


def _logits(params, x):
    hidden = jnp.tanh(x @ params["w0"] + params["b0"])
    return hidden @ params["w1"] + params["b1"]


def _trained(num_examples):
    """Trains by Adam on all data until the weights rest; returns them and data."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((num_examples, WIDTHS[0])).astype(np.float32)
    scores = images @ rng.standard_normal((WIDTHS[0], WIDTHS[2]))
    labels = (scores + 4 * rng.standard_normal(scores.shape)).argmax(axis=1)
    params = {}
    for layer, (i, o) in enumerate(itertools.pairwise(WIDTHS)):
        params[f"w{layer}"] = jnp.asarray(rng.standard_normal((i, o)) / np.sqrt(i), jnp.float32)
        params[f"b{layer}"] = jnp.zeros(o)

    def loss(params):
        logits = _logits(params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
        return losses.mean()

    tx = optax.adam(optax.cosine_decay_schedule(1e-2, 2000))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=2000))(params)
    return params, images, labels


def _torch_network(torch, params):
    network = torch.nn.Sequential(
        torch.nn.Linear(*WIDTHS[:2]), torch.nn.Tanh(), torch.nn.Linear(*WIDTHS[1:])
    )
    with torch.no_grad():
        for layer, module in enumerate((network[0], network[2])):
            module.weight.copy_(torch.tensor(np.asarray(params[f"w{layer}"]).T))
            module.bias.copy_(torch.tensor(np.asarray(params[f"b{layer}"])))
    return network


if __name__ == "__main__":
    sys.exit(console.run(CoefficientRace, "python -m experiments.benchmarks.coefficient_race"))
