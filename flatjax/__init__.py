"""flatjax: Entropy-SGD and Replicated-SGD for JAX, and measures of flatness.

The core works on pytrees and composes with optax; it imports no neural-network library.
`flatjax.models` (linen), `flatjax.data` and `flatjax.flatness` are imported on their own.
"""

from flatjax import batch_stats, calibration, communication, lora, schedules
from flatjax._alias import esgd, parle
from flatjax._averaging import AverageParamsState, average_params
from flatjax._center import replica_center, replica_distance
from flatjax._chain import check_chain
from flatjax._couple_replicas import CoupleReplicasState, couple_replicas
from flatjax._diagnostics import Collapse, check_collapsed, coupling_diagnostics
from flatjax._diloco import diloco
from flatjax._entropy_sgd import EntropySGDState, entropy_sgd
from flatjax._eval_params import eval_params, set_params
from flatjax._evaluation import EvalFn, evaluate
from flatjax._langevin import langevin_noise
from flatjax._limit_distance import LimitDistanceState, limit_distance
from flatjax._outer import OuterPullState
from flatjax._placement import map_replicas, stack_replicas
from flatjax._pull_to_center import PullToCenterState, pull_to_center
from flatjax._replicas import (
    per_replica,
    replica_mesh,
    unstack_replicas,
)
from flatjax._replicated_sgd import replicated_sgd
from flatjax._resize import resize_replicas
from flatjax._sam import sam
from flatjax._train_state import TrainState
from flatjax._version import __version__ as __version__

__all__ = [
    "AverageParamsState",
    "Collapse",
    "CoupleReplicasState",
    "EntropySGDState",
    "EvalFn",
    "LimitDistanceState",
    "OuterPullState",
    "PullToCenterState",
    "TrainState",
    "average_params",
    "batch_stats",
    "calibration",
    "check_chain",
    "check_collapsed",
    "communication",
    "couple_replicas",
    "coupling_diagnostics",
    "diloco",
    "entropy_sgd",
    "esgd",
    "eval_params",
    "evaluate",
    "langevin_noise",
    "limit_distance",
    "lora",
    "map_replicas",
    "parle",
    "per_replica",
    "pull_to_center",
    "replica_center",
    "replica_distance",
    "replica_mesh",
    "replicated_sgd",
    "resize_replicas",
    "sam",
    "schedules",
    "set_params",
    "stack_replicas",
    "unstack_replicas",
]
