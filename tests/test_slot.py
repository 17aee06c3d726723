"""Slots on an accelerator: failures are recorded, bundles are whole, queues go on."""

import json
import tarfile

import numpy as np
import pytest

from experiments.benchmarks import device
from experiments.engine.time_limit import TimeLimit
from experiments.report import store
from experiments.slot import bundle as bundles
from experiments.slot import checks, library_checks, queue
from experiments.slot.records import FILES, Records
from experiments.slot.run import check_records
from flatjax import data

# The checks themselves are run by CI's rehearsal.


def test_a_check_that_fails_is_recorded_and_the_next_one_runs(tmp_path):
    def fails():
        raise AssertionError("values differ")

    records = Records(tmp_path, {"commit": "abc"})
    limit = TimeLimit()
    assert checks.run_checks(records, limit, {"a": fails, "b": lambda: {"x": 1}}) == 1
    first, second = records.read("checks")
    assert (first["passed"], first["error"]) == (False, "AssertionError: values differ")
    assert (second["passed"], second["found"]) == (True, {"x": 1})
    assert {first["device"].split(",")[0], second["commit"]} == {"cpu", "abc"}
    limit = TimeLimit(1.0)
    limit.note("check", "part", 10.0)
    assert checks.run_checks(records, limit, {"c": fails}) == 0
    assert limit.unfinished == 1  # too long for what is left: neither failed nor passed


def test_records_have_few_files(tmp_path):
    assert len(FILES) <= 5
    with pytest.raises(ValueError, match="file must be one of"):
        Records(tmp_path, {}).add("notes", x=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    place = tmp_path_factory.mktemp("slot")
    bundles.write_toy_images(place / "images", number=2)
    size = bundles.make_bundle(place / "bundle", place / "images", wheels=False)
    assert size < 20 * 2**20  # without the wheels and with toy images
    return place


def test_a_bundle_holds_the_tree_and_the_images(bundle):
    assert bundles.check_bundle(bundle / "bundle").keys() >= {"commit", "jax"}
    with tarfile.open(bundle / "bundle" / "tree.tar.gz") as archive:
        names = archive.getnames()
    assert {"tree/flatjax/__init__.py", "tree/experiments/__main__.py"} <= set(names)
    bundles.unpack_images(bundle / "bundle" / "images.tar.xz", bundle / "images.npz")
    found = data.load(f"npz:{bundle / 'images.npz'}")
    expected = data.from_folder(bundle / "images", cache=False)
    for one, other in ((found.train, expected.train), (found.test, expected.test)):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
    with pytest.raises(ValueError, match=r"out \(.*\) exists"):
        bundles.make_bundle(bundle / "bundle", bundle / "images", wheels=False)


def test_a_bundle_that_cannot_be_carried_is_refused(bundle, tmp_path, monkeypatch):
    assert bundles.LIMIT == 45 * 2**20
    monkeypatch.setattr(bundles, "LIMIT", 1000)
    with pytest.raises(ValueError, match="MiB, at most 45 can be carried"):
        bundles.make_bundle(tmp_path / "bundle", bundle / "images", wheels=False)


def test_a_damaged_bundle_is_noticed(bundle, tmp_path):
    whole = bundle / "bundle" / "run.sh"
    text = whole.read_text()
    try:
        whole.write_text(text[:-1])
        with pytest.raises(ValueError, match=r"run\.sh is missing or damaged"):
            bundles.check_bundle(bundle / "bundle")
    finally:
        whole.write_text(text)


def test_the_queue_is_made_of_runs_of_the_table():
    for toy in (False, True):
        units = queue.units(toy)
        assert len({unit.key for unit in units}) == len(units)
        for unit in units:
            config = queue.config_of(unit, "npz:images.npz", toy)
            assert config.data.dataset == "npz:images.npz"
            assert ("dtype=bfloat16" in config.network.model_options) != toy
    first = queue.units()[0]
    assert (first.row, len(first.seeds)) == ("cifar10-smallconvnet", 5)


def test_what_is_done_is_not_done_again_and_what_does_not_fit_is_left(tmp_path):
    records, limit = Records(tmp_path, {}), TimeLimit(1.0, resumable=False)
    first, second = queue.units(toy=True)
    limit.note(second.key, "start", 1e3)
    queue.run_queue(records, limit, "digits", {first.key}, toy=True)
    assert [event["unit"] for event in records.read("events")] == [second.key]
    assert records.read("runs") == []
    assert limit.unfinished == 1


def test_a_rehearsal_that_lacks_something_is_noticed(tmp_path):
    records = Records(tmp_path, {})
    records.add("speed", part="steps", error="no")
    with pytest.raises(RuntimeError) as error:
        check_records(tmp_path)
    for text in ("speed: ", "checks that are missing", "units that are missing"):
        assert text in str(error.value)


def test_speeds_that_do_not_fit_are_left():
    limit = TimeLimit(1.0)
    limit.note("speed", "part", 10.0)
    assert list(device.measure(limit, toy=True)) == []
    assert limit.unfinished > 3


def test_reference_values_are_those_of_a_cpu():
    found = store.read_json(library_checks.REFERENCE)
    assert found["device"] == "cpu"
    assert json.dumps(found["found"])
