"""A transformer on Python's standard library: few messages, and flatness.

command:   python -m experiments language
hardware:  one CPU core, about four hours; two processes may share the directory
reaches:   docs/results/language.md
cost:      48 units. A gradient of 4 x 128 tokens takes 0.1 to 0.16 CPU s, and there are 70,000 of
           these. Held-out bits of 128 sequences take 4 CPU s, final bits 12, local energy 11 and
           compilation 15 to 35. A learning coefficient takes about 100 CPU s, for seed 0 alone.
           With --tuned: about 30 candidates and 15 runs of one to four minutes
order:     the arms of the primary comparison with seed 0, then with seeds 1 and 2; then all others,
           seed by seed. A unit takes four to five minutes, and its record is kept

The data are the bytes of the .py files; a tenth of the files is held out. The network is a
decoder-only transformer with 1.0 million parameters and context 128. Four replicas take S
sequential steps. One network takes either 4 S steps (the same number of tokens) or S (the same time
on four machines). "AdamW, batch x 4" equals the replicas in both, and sends a gradient at every
step.
"""

import dataclasses

from experiments.engine.config import TrainConfig
from experiments.studies.language.description import Coefficient, Language, Tuning

# The pull of a step, 1 - exp(-learning rate x gamma), grows from 0.1% to 63%.
RSGD = {"algorithm": "rsgd", "replicas": 4, "common_init": True, "gamma": 1.0, "gamma_factor": 1e3}
PARLE = {"algorithm": "parle", "noise_scale": 0.0, "gamma": 1.0, "gamma_factor": 1e3}
TOGETHER = {"replicas": 4, "common_init": True, "replica_gamma": 100.0}
ALONE = {"replicas": 1, "replica_gamma": 0.0, "steps": 4}
DILOCO = {"algorithm": "diloco"}

ARMS = {
    "AdamW": {"algorithm": "sgd", "steps": 4},
    "AdamW, S steps": {"algorithm": "sgd"},
    "AdamW, batch x 4": {"algorithm": "sgd", "batch": 4},
    **{f"DiLoCo, K={k}": DILOCO | {"replicas": 4, "period": k} for k in (1, 16, 64)},
    **{f"rSGD, K={k}": RSGD | {"period": k} for k in (1, 16, 64)},
    **{f"Parle, K={k}": PARLE | TOGETHER | {"inner_steps": k} for k in (1, 16, 64)},
    **{f"DiLoCo, y=1, K={k}": DILOCO | {"replicas": 1, "period": k, "steps": 4} for k in (16, 64)},
    **{f"Parle, y=1, K={k}": PARLE | ALONE | {"inner_steps": k} for k in (16, 64)},
}

RATES = {"learning_rate": (1e-3, 2e-3, 4e-3)}

# The primary arms have tuned settings in a second part. `pull` is that of rSGD's first coupling. A
# search of one pass over the settings came first, with tests on seeds 10 to 12 (commit b287889):
# one worker 2.476 bits, S steps 3.239, batch x 4 2.734, DiLoCo 3.207, rSGD 3.045.
TUNING = Tuning(
    axes={
        "AdamW": RATES,
        "AdamW, S steps": RATES,
        "AdamW, batch x 4": RATES,
        "DiLoCo, K=16": RATES | {"outer_learning_rate": (0.35, 0.7, 1.4)},
        "rSGD, K=16": RATES | {"pull": (1e-4, 1e-3, 1e-2)},
    }
)

STUDY = Language(
    base=TrainConfig.of(
        algorithm="sgd",
        dataset="experiments.studies.language.text:standard_library",
        validation=0.0,
        model="transformer",
        model_options=("width=144",),
        batch_size=4,
        base_optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup=0.05,
        decay_matrices_only=True,
        curve_examples=128,
        held_out_size=512,
        local_energy_examples=64,
        local_energy_samples=4,
        sigmas=(0.05, 0.1, 0.2),
    ),
    arms=ARMS,
    steps=384,
    seeds=(0, 1, 2),
    points=6,
    primary=("AdamW", "AdamW, S steps", "AdamW, batch x 4", "DiLoCo, K=16", "rSGD, K=16"),
    tuning=TUNING,
)

SMALL = dataclasses.replace(
    STUDY,
    base=STUDY.base.changed(
        dataset="experiments.studies.language.text:a_little_of_it",
        model_options=("width=32", "depth=1", "heads=2"),
        curve_examples=16,
        held_out_size=32,
        local_energy_examples=16,
        local_energy_samples=2,
        sigmas=(0.1,),
    ),
    arms={
        "AdamW": ARMS["AdamW"],
        "DiLoCo, K=16": ARMS["DiLoCo, K=16"],
        "rSGD, K=16": ARMS["rSGD, K=16"],
    },
    steps=64,
    seeds=(0,),
    points=4,
    flat_points=1,
    coefficient=Coefficient(seeds=()),
    tuning=Tuning(axes={"AdamW": RATES, "DiLoCo, K=16": RATES}, final_seeds=(10,)),
)
