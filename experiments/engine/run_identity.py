"""The identity of a run: files of another run are refused.

The message says what differs.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.engine.earlier_versions import converted
from experiments.report import store
from flatjax.models._fingerprint import differs

_OTHER_DIRECTORY = "choose another directory (--out DIRECTORY), or delete this one"


def check_identity(
    wanted: Mapping[str, Any],
    found: Mapping[str, Any],
    place: pathlib.Path | str,
    *,
    of_any_revision: bool = False,
) -> None:
    """Refuses files of another run.

    Args:
      wanted: identity of the current run: configuration, revision, and fingerprints of the data and
        of a network of the user.
      found: identity in a file. What it lacks is not compared, as files may be older; missing newer
        fields of the configuration count as defaults.
      place: the directory of the run, or the file.
      of_any_revision: whether to accept results of a program that computes other numbers.

    Raises:
      OtherIdentityError: the identities differ; the message says in which fields.
    """
    found = dict(found) | {"config": TrainConfig.from_json(converted(found["config"])).to_json()}
    known = found.keys() - {"network"} - ({"revision"} if of_any_revision else set())
    compared = {name: value for name, value in wanted.items() if name in known}
    if lines := store.differences(compared, found):
        lines = [line.removeprefix("config.") for line in lines]
        raise store.OtherIdentityError(
            f"{place} holds a run of another configuration ({store.listed(lines)}). A run resumes "
            "with the configuration and the revision it was started with: "
            f"{_OTHER_DIRECTORY}. With another number of replicas it continues by --resume "
            "DIRECTORY --replicas N."
        )
    before, now = found.get("network"), wanted.get("network")
    if before and now and differs(before, now):
        raise store.OtherIdentityError(
            f"{place} holds a run of an earlier {found['config']['model']}: the code of the model "
            f"has changed since (network.digest: wanted {now['digest']}, found "
            f"{before['digest']}). To train the changed model, {_OTHER_DIRECTORY}."
        )
