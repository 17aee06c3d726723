"""The ladder: how long SGD must train in the second contest.

command:   python -m experiments ladder
hardware:  2 CPU cores, several hours, in units of minutes; --small takes two minutes

Protocol, fixed before the first run
1. Settings: Fashion-MNIST with 500, 2,000 or 10,000 training images for the MLP and with 500 or
   2,000 for the conv net, each with clean labels and with 20% label noise. Batches of 32.
2. Lengths: 1, 3 and 10 times the epochs of `SETTINGS`. With 2,000 and 10,000 images, one length is
   the first contest's number of epochs. With 500 images it has the same number of steps as with
   2,000 images.
3. At each length SGD is tuned by successive halving on validation data. 12 candidates, log-uniform
   in learning rate and weight decay, run on 2 seeds, the best 4 of them on 5 seeds, and the best 2
   on 10. The records are cumulative: complete seeds are not repeated. The candidates are the same
   at every length.
4. A longer length is run only if the shorter one has not ended the ladder. A setting uses the
   shortest length at which tripling the epochs lowers the mean validation error of the best
   candidate (10 seeds) by less than 0.1 points. If no length does, it uses the
   longest one. This sentence was added after the ladder of the MLP, and before any test of the
   setting that needs it (2,000 clean images).
5. Seeds are for pilots and tuning (below 1,000). Test errors are not looked at.
"""

import dataclasses

from experiments.engine.config import TrainConfig
from experiments.studies.ladder.description import Ladder

SETTINGS = {
    f"{network}, {label}, {labels}": {
        "model": model,
        "train_size": size,
        "epochs": epochs,
        "label_noise": noise,
    }
    for labels, noise in (("clean", 0.0), ("20% noise", 0.2))
    for network, model, label, size, epochs in (
        ("MLP", "mlp", "500", 500, 240),
        ("MLP", "mlp", "2k", 2000, 60),
        ("MLP", "mlp", "10k", 10_000, 30),
        ("conv net", "small_convnet", "500", 500, 120),
        ("conv net", "small_convnet", "2k", 2000, 30),
    )
}

STUDY = Ladder(
    base=TrainConfig.of(
        algorithm="sgd",
        dataset="fashion_mnist",
        batch_size=32,
        validation=0.1,
        evaluate_on="validation",
    ),
    settings=SETTINGS,
    space={"learning_rate": (0.01, 0.3), "weight_decay": (2e-4, 0.2)},
    trials=12,
    lengths=(1, 3, 10),
    rounds=((12, 2), (4, 5), (2, 10)),
    least_gain=0.1,
)

SMALL = dataclasses.replace(
    STUDY,
    settings={"MLP, 500, clean": {"model": "mlp", "train_size": 500, "epochs": 4}},
    trials=3,
    lengths=(1, 3),
    rounds=((3, 1), (2, 2)),
)
