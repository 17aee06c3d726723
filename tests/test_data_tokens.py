"""Texts as sequences of tokens: which file is for what, where sequences are cut, what is read."""

import types

import numpy as np
import pytest

from flatjax import data
from flatjax.data._arrays import is_mapped
from flatjax.data._tokens import UNKNOWN

TEXT = "".join(chr(ord("a") + n % 7) for n in range(101))


@pytest.fixture
def folder(tmp_path):
    """Forty files, two of them in a folder of their own."""
    for number in range(40):
        path = tmp_path / ("inner" if number < 2 else ".") / f"{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number:02d}" * 20)
    return tmp_path


def decoded(split):
    """The text of bytes, each token once."""
    rows = split.tokens
    return bytes(rows[:, :-1].ravel()).decode() + bytes(rows[-1, -1:]).decode()


def test_a_file_is_cut_so_that_each_token_is_predicted_once(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    text = data.from_text(file, context=10, test=0.4)
    assert (text.num_classes, text.class_names, text.name) == (256, None, f"text:{file}")
    assert decoded(text.train) == TEXT[:61]  # 60.6 of 101
    assert decoded(text.test) == TEXT[61:92]
    targets = np.concatenate([row[1:] for row in text.train.tokens])
    assert bytes(targets).decode() == TEXT[1:61]


def test_a_mapped_file_has_the_same_sequences(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    for context in (10, 7):
        options = {"context": context, "test": 0.4}
        text, mapped = (data.from_text(file, **options, mapped=own) for own in (False, True))
        for split in ("train", "test"):
            one, other = (getattr(each, split).tokens for each in (text, mapped))
            np.testing.assert_array_equal(one, other)
            assert is_mapped(other)
            assert not is_mapped(one)
            assert other.strides == (context, 1)  # a view of the file
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="got 0"):
        data.from_text(tmp_path / "empty", mapped=True)


def test_characters_have_a_vocabulary_of_the_training_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("äb€" * 20 + "äz", encoding="utf-8")
    text = data.from_text(file, unit="characters", context=5, test=0.2)
    assert text.class_names == (UNKNOWN, "b", "ä", "€")
    first = "".join(text.class_names[token] for token in text.train.tokens[0])
    assert first == "äb€äb€"
    assert {*text.train.tokens.ravel().tolist()} == {1, 2, 3}
    file.write_bytes(b"\xff" * 100)
    assert len(data.from_text(file, context=5).train) == 17
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8.*take unit=bytes"):
        data.from_text(file, unit="characters", context=5)


def test_a_character_that_the_training_text_lacks_is_the_first_token(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("ab" * 40 + "zazbzaz")
    test = data.from_text(file, unit="characters", context=5, test=0.08).test
    assert test.tokens.tolist() == [[0, 1, 0, 2, 0, 1]]


def test_files_are_divided_whatever_other_files_there_are(folder):
    test = lambda text: {decoded(text.test)[n : n + 2] for n in range(0, 41 * 3, 41)}
    text = data.from_text(folder, context=20, test=0.2)
    before = decoded(text.train) + decoded(text.test)
    assert len({*before.split("\n")} - {""}) >= 38
    (folder / "99.txt").write_text("99" * 20)
    assert test(data.from_text(folder, context=20, test=0.2)) == test(text)
    assert {*decoded(text.test).split("\n")}.isdisjoint(decoded(text.train).split("\n"))
    only = data.load_text(f"text,files=0*.txt,context=20,test=0.3:{folder}")
    assert not set(decoded(only.train).replace("\n", "")) - set("0123456789")
    assert "13" * 20 not in decoded(only.train) + decoded(only.test)


def test_hidden_files_are_read_only_by_their_paths(folder):
    before = data.from_text(folder, context=20, test=0.2)
    (folder / ".git").mkdir()
    for name in (".git/a", ".DS_Store"):
        (folder / name).write_bytes(b"\xff" * 500)
    after = data.from_text(folder, context=20, test=0.2)
    for split in ("train", "test"):
        tokens = (getattr(text, split).tokens for text in (before, after))
        np.testing.assert_array_equal(*tokens)
    named = data.from_text(folder, context=20, test=0.5, files=[".DS_Store", ".git/a"])
    assert {*np.unique(named.train.tokens)} == {ord("\n"), 255}


def test_folders_train_and_test_are_kept(folder):
    for part, letter in (("train", "a"), ("test", "b")):
        (folder / part).mkdir()
        (folder / part / "1.txt").write_text(letter * 50)
    text = data.from_text(folder, context=7)
    assert set(decoded(text.train)) == {"a"}
    assert set(decoded(text.test)) == {"b"}


def test_batches_hold_what_is_read_and_what_is_predicted():
    split = data.TokenSplit(np.arange(24, dtype=np.uint8).reshape(4, 6))
    batch = data.take_batch(data.to_device(split), np.array([[2, 0]]))
    assert batch["tokens"].tolist() == [[[12, 13, 14, 15, 16], [0, 1, 2, 3, 4]]]
    assert batch["targets"].tolist() == [[[13, 14, 15, 16, 17], [1, 2, 3, 4, 5]]]
    *_, last = data.eval_batches(split, None, 3)
    assert last["weight"].tolist() == [[1.0] * 5, [0.0] * 5, [0.0] * 5]
    assert last["targets"][0].tolist() == [19, 20, 21, 22, 23]


def test_neighbouring_sequences_are_set_aside():
    split = data.TokenSplit(np.arange(20, dtype=np.int32).reshape(10, 2))
    starts = set()
    for seed in range(8):
        train, validation = data.split_validation(split, 3, seed)
        rows = validation.tokens[:, 0] // 2
        assert sorted([*rows, *(train.tokens[:, 0] // 2)]) == [*range(10)]
        gaps = np.diff(np.r_[rows, rows[0] + 10])  # on a circle, one of them is long
        assert sorted(gaps.tolist()) == [1, 1, 8]
        starts.add(tuple(rows.tolist()))
    assert len(starts) > 3
    assert len(data.subset(split, 4, seed=0)) == 4


def test_a_text_of_tensorflow_datasets(monkeypatch):
    import tensorflow_datasets as tfds

    texts = {"train": [b"abcabc", "abc"], "validation": [b"abcab"]}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features={"text": None, "title": None}, splits=[*texts]),
        download_and_prepare=lambda **_: None,
        as_data_source=lambda split: [{"text": text} for text in texts[split]],
    )
    monkeypatch.setattr(tfds, "builder", lambda name, **_: builder)
    text = data.load_text("tfds_text,context=3:wiki40b/en")
    assert (decoded(text.train), decoded(text.test)) == ("abcabc\nabc", "abca")
    builder.info.features = {"image": None}
    with pytest.raises(ValueError, match="expected a feature 'text'"):
        data.load_text("tfds_text:mnist")
    with pytest.raises(ValueError, match="must be the name of a data set of TFDS"):
        data.from_tfds_text("huggingface:x")


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([[1, 2]], TypeError, "uint8 or int32, got list"),
        (np.zeros((2, 3)), TypeError, "uint8 or int32"),
        (np.zeros(3, np.uint8), ValueError, r"shape \(N, T \+ 1\).*got \(3,\)"),
        (np.zeros((3, 1), np.uint8), ValueError, r"got \(3, 1\)"),
        (np.full((3, 2), -1, np.int32), ValueError, "must not be negative, got -1"),
    ],
)
def test_bad_tokens(tokens, error, message):
    with pytest.raises(error, match=message):
        data.TokenSplit(tokens)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("text,context=400:{0}", ValueError, "test must have at least context . 1 = 401 tokens"),
        ("text,unit=words:{0}", ValueError, "unit must be one of 'bytes', 'characters'"),
        ("text,context=x:{0}", ValueError, "options of text are unit, context, test, files"),
        ("text,test=1:{0}", ValueError, r"test must be in \(0, 1\)"),
        ("text,files=*.py:{0}", FileNotFoundError, r"there is no file \*\.py"),
        ("text:{0}/nothing", FileNotFoundError, "nothing"),
        ("text,mapped=true:{0}", ValueError, "mapped must be False for a folder"),
        ("text,mapped=yes:{0}", ValueError, "options of text are unit, context, .*, mapped"),
        ("text,mapped=true,unit=characters:{0}/02.txt", ValueError, "only the bytes of one file"),
        ("text,mapped=true,context=40:{0}/02.txt", ValueError, "train must have at least context"),
        ("npz:{0}", ValueError, "must be 'text:PATH' or 'tfds_text:NAME'"),
    ],
)
def test_bad_names(name, error, message, folder):
    with pytest.raises(error, match=message):
        data.load_text(name.format(folder))


def test_vocabularies_must_fit():
    split = data.TokenSplit(np.array([[1, 2]], np.uint8))
    longer = data.TokenSplit(np.array([[1, 2, 0]], np.uint8))
    assert data.TokenDataset("x", split, split, 3).class_names is None
    with pytest.raises(ValueError, match="below num_classes=2, got a token 2"):
        data.TokenDataset("x", split, split, 2)
    with pytest.raises(ValueError, match="must have one length and dtype"):
        data.TokenDataset("x", split, longer, 3)
    with pytest.raises(ValueError, match="class_names must be 3"):
        data.TokenDataset("x", split, split, 3, ("a",))
