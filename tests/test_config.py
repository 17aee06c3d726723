"""Any configuration is one that a run can have, or refused by the name of a field."""

import dataclasses
import json

import hypothesis
import pytest
import tyro
from hypothesis import strategies as st

from experiments.engine.config import TrainConfig

FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]
# What a configuration holds, and what none does.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**6)
    | st.floats()
    | st.sampled_from(["rsgd", "digits", "flip", "cosine", "int8", "hidden=(8,)", "", "µ"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3).map(tuple) | st.just({}) | st.just([0.1])


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_is_right_or_refused_by_name(field):
    def check(value):
        try:
            config = dataclasses.replace(TrainConfig(), **{field: value})
        except ValueError:
            with pytest.raises(ValueError, match=field):
                dataclasses.replace(TrainConfig(), **{field: value})
            return
        text = json.dumps(config.to_json(), allow_nan=False)
        assert TrainConfig.from_json(json.loads(text)) == config
        assert tyro.cli(TrainConfig, args=config.to_arguments()) == config

    settings = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
    settings(hypothesis.given(VALUES)(check))()
