"""The second contest: where entropic algorithms win. Its rules came first.

command:   python -m experiments contest [--settings LABEL ...] [--algorithms LABEL ...]
hardware:  2 CPU cores, in units of seconds to a minute. A setting of the MLP with 500 or 2,000
           images takes 20 minutes of one core (AMD EPYC 9005), one with 10,000 takes 50, and one of
           ten times the length 150. --small takes two or three minutes

Protocol
1. Settings: the settings of `experiments.configs.ladder`: Fashion-MNIST with 500, 2,000 or 10,000
   training images for the MLP and 500 or 2,000 for the conv net, with clean labels and with 20%
   label noise. Batches of 32.
2. Length: the shortest at which tripling the epochs gains SGD less than 0.1 points of validation
   error (`python -m experiments ladder`), or else the longest that was tried; `LENGTHS` holds it.
   All algorithms take the same number of gradients (SAM two, L for a step of the anchor, rSGD's
   replicas share them).
3. Tuning, on validation data, by cumulative halving. 16 candidates, log-uniform (Halton) in the
   spaces below, run on 2 seeds, the best 5 on 5 seeds, and the best 2 on 10. Each seed has its own
   subset, label noise and validation set. The candidate of least mean error is chosen. The other
   one is listed as a tie if it is within one standard error of the paired difference.
4. Edges: if the choice is in the outermost tenth of a range (on a log scale), the range grows by a
   third of its length at that end. 4 candidates are added there; in the other ranges they are
   within a tenth of the length from the choice. Then all candidates are halved again. This happens
   at most twice. The lower end of gamma is not extended: the 4 candidates have gamma = 0.
5. Test: the choice runs once, on fresh seeds from 1,000, which are the same for all algorithms.
   Each seed has its own subset and label noise. There are 40 seeds for the MLP and 20 for the conv
   net. Seeds below 1,000 are not fresh.
6. Primary: the test errors of eSGD and rSGD against SGD's, by paired t-tests in each setting.
   Holm's method corrects all of these (20 when all settings are complete; missing ones count as
   p = 1). All other tests are exploratory: they are labelled so, and corrected in their own
   families. The least detectable difference of each setting is stated (power 0.8, level 0.05 / 20).
7. Outcomes, measured when a run ends: test error and loss; loss at the temperature fitted on
   validation examples; expected calibration error (15 bins of equal mass) and Brier score. The
   training error, its rise under multiplicative noise, and the noise at which it has risen by 1 and
   5 points. Rises of the test error under 4- and 3-bit weights (range of each matrix, of each
   channel, clipped) and under pruning.
8. Along SGD's own test runs: the average of its weights (EMA), and the best of 20 moments by
   validation error (early stopping). They cost no gradients and no tuning. The decay is 0.999, and
   0.998 for the conv net, whose runs are half as long: of the initial weights at most 3% are left.
9. Nothing is retuned after test errors were seen.

Later stages (variants of eSGD and rSGD, weight decay fixed, more networks) are further contestants
and settings of the same study, each in a separate description. `STAGES` has them:

coupling   Does the coupling matter? rSGD with gamma = 0 (independent replicas, averaged at the end)
           and with gamma = 1e6 (one network after the first step), at rSGD's other choices. There
           is no search: both run once, on the seeds of the test. All comparisons are exploratory.
           Three minutes of one core for a setting.
paper      The paper's own claim. All algorithms have weight decay 5e-4, as in the paper, and its
           choices of everything but the learning rate, or the library's defaults where the paper
           names none. Learning rates are tuned: 8 candidates on 2 seeds, 3 on 5, 2 on 10. The MLP
           with 2,000 images has 0, 20 and 40% label noise, and 60 epochs in each. The six
           comparisons of eSGD and rSGD with SGD are primary, on 40 fresh seeds from 2,000: the main
           stage has looked at test errors on its own ones. rsgd and esgd pull after the step, as
           the library does by default; "as published" have the force in the gradient and the decay
           of the authors' code, and are exploratory. So are "small rates", which were added after
           these tests. Under noise SGD had chosen the smallest rate. SAM and SWA had not tried
           rates below 0.013 at 40%, because a larger one was as good. Half an hour of one core for
           a setting.
variants   Can the algorithms be better? Eight variants on the MLP with 2,000 images and 20% label
           noise, tuned and tested as in the main stage, whose runs of SGD, SAM, rSGD and eSGD it
           shares. (Clean labels were planned as well. They take ten hours of a core, because the
           ladder chose ten times the length there, and were given up before any run.) eSGD has more
           noise; a momentum that is kept between loops; longer means; or the average of its anchors
           in the last quarter. SAM has the average of its weights in the last quarter. fork is one
           network for half of the gradients (three of them make a step), and then three at a
           constant rate, averaged at the end (SWAP). rSGD has a limit of the distance of its
           replicas in place of gamma, which falls linearly to 0 (the upper end of its range, 0.8,
           is not extended: independent replicas are 0.82 apart). Or its gradients are taken uphill,
           further away from the center (`experiments/engine/ascent.py`). All comparisons are
           exploratory: the test seeds are not fresh for the other algorithms. At most two variants
           will be tried on the conv net: the best ones among those that are better than SGD, SAM
           and eSGD by their corrected intervals. About an hour of one core for a setting of the
           shortest length.
workers-4  Replicas as workers: y = 4 share 4,096 gradients of 32 images, so that a run takes 1,024
           sequential gradients. Local SGD has K = 16 and 64 steps between messages (K = 1 is the
           large batch). rSGD and Parle have K = 1, 16 and 64, and replicas that start together or
           apart, which is tuned. The large batch is one network with batches of y x 32, with or
           without a warm-up of a tenth of the run. All are tuned: 12 candidates on 2 seeds, 3 on 5.
           On 20 fresh seeds from 2,100, the differences to the large batch are primary (8, Holm).
           Small-batch SGD takes 4,096 steps. A method reaches it if it is less than 0.3 points
           worse (one-sided t-tests; Holm's method corrects those of all methods, the large batch
           included). One worker alone, with 1,024 steps, is a control. Along the large batch's test
           runs, its weights are averaged with a decay of 0.999 for each gradient of 32 images.
           About half an hour of one core.
workers-16 The same with y = 16 and 256 sequential gradients. It shares the runs of small-batch SGD.
"""

import dataclasses
from typing import Any

from experiments.configs import ladder
from experiments.studies.contest.description import Contest, Contestant, Outcomes
from experiments.studies.reproduce.description import as_published
from experiments.studies.spaces import Choice, Range

# Setting -> multiple of the ladder's shortest length, from experiments/results/ladder. A setting
# that the ladder has not decided is missing here, and is refused.
LENGTHS: dict[str, int] = {
    "MLP, 500, clean": 1,
    "MLP, 2k, clean": 10,
    "MLP, 10k, clean": 1,
    "MLP, 500, 20% noise": 1,
    "MLP, 2k, 20% noise": 1,
    "MLP, 10k, 20% noise": 1,
    "conv net, 2k, clean": 1,
    "conv net, 2k, 20% noise": 1,
}

_SGD: dict[str, Range] = {"learning_rate": (0.01, 0.3), "weight_decay": (2e-4, 0.2)}

CONTESTANTS = {
    "sgd": Contestant({"algorithm": "sgd"}, _SGD),
    "sam": Contestant({"algorithm": "sam"}, _SGD | {"sam_rho": (0.005, 0.5)}),
    "swa": Contestant({"algorithm": "swa"}, _SGD),
    "rsgd": Contestant({"algorithm": "rsgd"}, _SGD | {"gamma": (1e-6, 1.0)}),
    "esgd": Contestant(
        {"algorithm": "esgd"},
        _SGD
        | {
            "gamma": (1e-4, 100.0),
            "noise_scale": (1e-4, 1e-2),
            "averaging_decay": Choice((0.5, 0.75, 0.9)),
            "inner_steps": Choice((5, 20)),
        },
    ),
}

STUDY = Contest(
    base=ladder.STUDY.base.changed(evaluate_on="test"),
    settings=ladder.SETTINGS,
    lengths=LENGTHS,
    contestants=CONTESTANTS,
    trials=16,
    rounds=((16, 2), (5, 5), (2, 10)),
    edge=0.1,
    extension=1 / 3,
    extension_trials=4,
    extensions=2,
    ends_at_zero=("gamma",),
    first_test_seed=1000,
    test_seeds={"mlp": 40, "small_convnet": 20},
    baseline="sgd",
    references=("sam", "swa"),
    primary=("esgd", "rsgd"),
    outcomes=Outcomes(
        sigmas=(0.1, 0.2, 0.3, 0.5),
        noise_samples=10,
        noise_rises=(1.0, 5.0),
        bits=(4, 3),
        sparsity=(0.5, 0.7, 0.9),
        examples=2000,
        watched=20,
        ema_decay={"mlp": 0.999, "small_convnet": 0.998},
    ),
)

COUPLING = dataclasses.replace(
    STUDY,
    contestants={
        "sgd": CONTESTANTS["sgd"],
        "rsgd": CONTESTANTS["rsgd"],
        "rsgd gamma 0": Contestant({"algorithm": "rsgd", "gamma": 0.0}, choice_of="rsgd"),
        "rsgd gamma 1e6": Contestant({"algorithm": "rsgd", "gamma": 1e6}, choice_of="rsgd"),
    },
    references=("rsgd",),
    primary=(),
    name="coupling",
)

_RATE: dict[str, Range] = {"learning_rate": (0.01, 0.3)}
_PUBLISHED = as_published(STUDY.base.changed(weight_decay=5e-4))
_NOISE = {"clean": 0.0, "20% noise": 0.2, "40% noise": 0.4}
PAPER = dataclasses.replace(
    STUDY,
    settings={
        f"MLP, 2k, {labels}, decay 5e-4": ladder.SETTINGS["MLP, 2k, clean"]
        | {"label_noise": noise, "weight_decay": 5e-4}
        for labels, noise in _NOISE.items()
    },
    lengths={f"MLP, 2k, {labels}, decay 5e-4": 1 for labels in _NOISE},
    contestants={
        **{name: Contestant({"algorithm": name}, _RATE) for name in CONTESTANTS},
        "rsgd, as published": Contestant(_PUBLISHED["rSGD, as published"], _RATE),
        "esgd, as published": Contestant(_PUBLISHED["eSGD, as published"], _RATE),
        "sgd, small rates": Contestant({"algorithm": "sgd"}, {"learning_rate": (1e-5, 3e-3)}),
        "sam, small rates": Contestant({"algorithm": "sam"}, {"learning_rate": (1e-4, 1e-2)}),
        "swa, small rates": Contestant({"algorithm": "swa"}, {"learning_rate": (1e-4, 1e-2)}),
    },
    trials=8,
    rounds=((8, 2), (3, 5), (2, 10)),
    ends_at_zero=(),
    first_test_seed=2000,
    name="paper",
)

_ESGD = CONTESTANTS["esgd"].space
VARIANTS = dataclasses.replace(
    STUDY,
    settings={setting: ladder.SETTINGS[setting] for setting in ("MLP, 2k, 20% noise",)},
    contestants={name: CONTESTANTS[name] for name in ("sgd", "sam", "rsgd", "esgd")}
    | {
        "esgd, more noise": Contestant(
            {"algorithm": "esgd"}, {**_ESGD, "noise_scale": (1e-3, 0.1)}
        ),
        "esgd, momentum kept": Contestant({"algorithm": "esgd", "reset_inner": False}, _ESGD),
        "esgd, longer means": Contestant(
            {"algorithm": "esgd"},
            {
                **_ESGD,
                "averaging_decay": Choice((0.9, 0.95, 0.98)),
                "inner_steps": Choice((20, 50)),
            },
        ),
        "esgd, averaged": Contestant({"algorithm": "esgd", "final_average": 0.75}, _ESGD),
        "sam, averaged": Contestant(
            {"algorithm": "sam", "final_average": 0.75}, CONTESTANTS["sam"].space
        ),
        "fork": Contestant({"algorithm": "fork"}, _SGD),
        "rsgd, distance": Contestant(
            {"algorithm": "rsgd"},
            _SGD | {"distance": (0.02, 0.8)},
            # Three independent replicas are sqrt(2/3) = 0.82 apart: more is no limit.
            last_ends=(("distance", "high"),),
        ),
        "rsgd, ascent": Contestant(
            {"algorithm": "rsgd"}, {**CONTESTANTS["rsgd"].space, "ascent": (0.005, 0.5)}
        ),
    },
    references=("sam", "esgd"),
    primary=(),
    name="variants",
)

_LOCAL = {"algorithm": "diloco", "outer_learning_rate": 1.0, "outer_momentum": 0.0}


def _workers(number: int, gradients: int = 4096) -> Contest:
    """Makes the stage in which `number` workers share the gradients of a run."""
    setting, single = f"MLP, 2k, clean, {gradients} gradients", ladder.STUDY.base.batch_size
    epochs = lambda steps, batch: steps / (2000 // batch)
    steps, batch = gradients // number, number * single
    # Labels hold the number of workers: both stages share a setting, and so the files of its runs.
    large, y, shares = f"sgd, batch x {number}", f"y={number}", {"replicas": number}
    start: dict[str, Range] = {"common_init": Choice((False, True))}
    rsgd = CONTESTANTS["rsgd"].space | start
    parle = _SGD | {"gamma": (1e-4, 100.0), "replica_gamma": (1e-4, 100.0)} | start
    replicated = {
        **{
            f"local sgd, {y}, K={k}": Contestant(_LOCAL | shares | {"period": k}, _SGD)
            for k in (16, 64)
        },
        **{
            f"rsgd, {y}, K={k}": Contestant({"algorithm": "rsgd", "period": k} | shares, rsgd)
            for k in (1, 16, 64)
        },
        **{
            f"parle, {y}, K={k}": Contestant(
                {"algorithm": "parle", "inner_steps": k} | shares, parle
            )
            for k in (1, 16, 64)
        },
    }
    alone = {"algorithm": "sgd", "epochs": epochs(steps, single)}
    together = {"algorithm": "sgd", "batch_size": batch, "epochs": epochs(steps, batch)}
    own = ladder.SETTINGS["MLP, 2k, clean"] | {"epochs": epochs(gradients, single)}
    warmed = {"learning_rate": (0.02, 1.0), "warmup": Choice((0.0, 0.1))}
    return dataclasses.replace(
        STUDY,
        settings={setting: own},
        lengths={setting: 1},
        contestants={
            "sgd": CONTESTANTS["sgd"],
            f"sgd, steps / {number}": Contestant(alone, _SGD),
            large: Contestant(together, _SGD | warmed),
            **replicated,
        },
        trials=12,
        rounds=((12, 2), (3, 5)),
        ends_at_zero=("gamma", "replica_gamma"),
        first_test_seed=2100,
        test_seeds={"mlp": 20},
        # A step of the large batch is `number` gradients: the average spans as many images.
        outcomes=dataclasses.replace(
            STUDY.outcomes,
            ema_decay={"mlp": round(STUDY.outcomes.ema_decay["mlp"] ** number, 4)},
        ),
        baseline=large,
        references=("sgd",),
        margin=0.3,
        primary=tuple(replicated),
        name=f"workers-{number}",
    )


STAGES = {
    "main": STUDY,
    "coupling": COUPLING,
    "paper": PAPER,
    "variants": VARIANTS,
    "workers-4": _workers(4),
    "workers-16": _workers(16),
}


def _small(stage: Contest, **changes: Any) -> Contest:
    """Makes the small form of a stage: its first setting, few candidates and seeds."""
    setting = next(iter(changes.get("settings", stage.settings)))
    small: dict[str, Any] = {
        "settings": {setting: stage.settings[setting] | {"epochs": 4}},
        "lengths": {setting: 1},
        "trials": 3,
        "rounds": ((3, 1),),
        "extensions": 0,
        "test_seeds": {"mlp": 3},
        "outcomes": dataclasses.replace(STUDY.outcomes, noise_samples=2, examples=200, watched=3),
    }
    return dataclasses.replace(stage, **small | changes)


def _small_workers(number: int) -> Contest:
    """Makes the small form of workers: 32 steps, few contestants."""
    stage = _workers(number, gradients=32 * number)
    names = (stage.baseline, "sgd", f"rsgd, y={number}, K=16")
    contestants = {name: stage.contestants[name] for name in names}
    return _small(stage, settings=stage.settings, contestants=contestants)


_FEW = {"MLP, 500, 20% noise": ladder.SETTINGS["MLP, 500, 20% noise"] | {"epochs": 10}}
_FEW_VARIANTS = {name: VARIANTS.contestants[name] for name in ("sgd", "esgd, averaged", "fork")}
_FEW_OF_PAPER = {
    name: PAPER.contestants[name] for name in ("sgd", "sam", "swa", "rsgd, as published", "esgd")
}
# A minute or two of CPU time, most of which is compilation.
SMALLS = {
    "main": _small(STUDY, settings=_FEW),
    "coupling": _small(COUPLING, settings=_FEW),
    "paper": _small(PAPER, contestants=_FEW_OF_PAPER),
    "variants": _small(VARIANTS, contestants=_FEW_VARIANTS),
    "workers-4": _small_workers(4),
    "workers-16": _small_workers(16),
}
