"""Token files: what is written is what is read, mapped, streamed and cut."""

import json
import re
import sys

import numpy as np
import pytest

from experiments import data, make_tokens
from experiments.data import tokens

TEXT = "the quick brown fox jumps over the lazy dog, näturally\n" * 40


def folder_of(tmp_path, dtype="<u2", described=True, **parts):
    for name, numbers in parts.items():
        (tmp_path / f"{name}.bin").write_bytes(np.asarray(numbers, dtype).tobytes())
    if described:
        (tmp_path / "tokens.json").write_text('{"dtype": "uint16", "vocabulary": 500}')
    return tmp_path


def test_files_follow_each_other_and_windows_cross_them(tmp_path):
    a, b, c = np.arange(100), np.arange(100, 107), np.arange(107, 400)
    folder_of(tmp_path, train_0=a, train_1=b, train_2=[], train_3=c, valid=a, test=a)
    loaded = data.load(f"tokens:{tmp_path}")
    mapped = loaded.train["tokens"]
    assert len(mapped) == 400
    assert (loaded.num_classes, len(loaded.valid["tokens"])) == (500, 100)
    np.testing.assert_array_equal(np.asarray(mapped), np.arange(400))
    for start, stop in ((0, 5), (95, 120), (99, 101), (106, 108), (390, 400)):
        np.testing.assert_array_equal(mapped[start:stop], np.arange(start, stop))

    order = data.window_batches(400, 9, 6, seed=3)
    whole = data.streamed_windows(mapped, 9, 6, 3, threads=2)
    halves = [
        data.streamed_windows(mapped, 9, 6, 3, threads=2, process_index=i, process_count=2)
        for i in range(2)
    ]
    for start in (0, 4):
        offsets, batch = next(order(start)), next(whole(start))["tokens"]
        np.testing.assert_array_equal(batch, offsets[:, None] + np.arange(10))
        parts = [next(half(start))["tokens"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
    make = data.prepare(loaded, length=9)
    streamed, resident = make({}, {"tokens": batch}), make({"tokens": np.arange(400)}, offsets)
    for key in ("x", "label"):
        np.testing.assert_array_equal(streamed[key], resident[key])


def test_files_of_other_projects_need_type_and_vocabulary(tmp_path):
    folder_of(tmp_path, described=False, train=range(50), val=range(20))
    loaded = data.load(f"tokens:{tmp_path}", dtype="uint16", vocabulary=50)
    np.testing.assert_array_equal(loaded.valid["tokens"], np.arange(10))
    np.testing.assert_array_equal(loaded.test["tokens"], np.arange(10, 20))
    with pytest.raises(ValueError, match=r"has no tokens\.json with dtype and vocabulary"):
        data.load(f"tokens:{tmp_path}")


def test_more_tokens_than_int32_counts_have_offsets_of_their_own():
    offsets = next(data.window_batches(2**33, 8, 64, seed=0)(0))
    assert offsets.dtype == np.int64
    assert offsets.max() > 2**32


@pytest.mark.parametrize("vocabulary", [0, 300])
def test_a_text_survives_its_tokens(tmp_path, vocabulary):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    out = tmp_path / "out"
    counts = make_tokens.write([tmp_path / "a.txt"], out, vocabulary=vocabulary)
    described = json.loads((out / "tokens.json").read_text())
    assert described["tokens"] == counts
    loaded = data.load(f"tokens:{out}")
    parts = [np.asarray(getattr(loaded, p)["tokens"]) for p in tokens.PARTS]
    assert [len(p) for p in parts] == list(counts.values())
    size = len(TEXT.encode()) if vocabulary == 0 else len(TEXT)
    cuts = [0, size * 90 // 100, size * 95 // 100, size]
    if vocabulary == 0:
        assert loaded.num_classes == 256
        assert b"".join(p.astype(np.uint8).tobytes() for p in parts) == TEXT.encode()
        return
    assert counts["train"] < 0.7 * cuts[1]  # Pairs were learned.
    codec = make_tokens._codec(out / "tokenizer.json")
    for part, start, stop in zip(parts, cuts, cuts[1:], strict=False):
        assert codec.decode(part.tolist()) == TEXT[start:stop]
    again = make_tokens.write(
        [tmp_path / "a.txt"], tmp_path / "again", tokenizer=out / "tokenizer.json"
    )
    assert again == counts


def test_bad_files_are_named(tmp_path, monkeypatch):
    good = {"train": range(50), "valid": range(9), "test": range(9)}
    folder_of(tmp_path, **good)
    (tmp_path / "train.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"train.bin has 3 bytes, no multiple of the 2 of a token"):
        data.load(f"tokens:{tmp_path}")
    folder_of(tmp_path, **good | {"train": [1, 2, 500, 3]})
    with pytest.raises(ValueError, match=r"train.bin has the token 500, expected .* below 500"):
        np.asarray(data.load(f"tokens:{tmp_path}").train["tokens"])
    folder_of(tmp_path, **good | {"test": [1]})
    with pytest.raises(ValueError, match="the test part has 1 tokens, expected 2 or more"):
        data.load(f"tokens:{tmp_path}")
    (tmp_path / "valid.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs files train\*.bin and valid\*.bin"):
        data.load(f"tokens:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty needs files .*, it holds nothing"):
        data.load(f"tokens:{tmp_path / 'empty'}")
    folder_of(tmp_path, **good)
    described = {"dtype": "uint16", "vocabulary": 500, "tokens": {"train": 60, "valid": 9}}
    (tmp_path / "tokens.json").write_text(json.dumps(described))
    (tmp_path / "train_more.bin").write_bytes(np.arange(10, dtype="<u4").tobytes())
    with pytest.raises(ValueError, match=r"train\*.bin have 70 tokens of uint16, .* says 60"):
        data.load(f"tokens:{tmp_path}")
    (tmp_path / "tokens.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokens.json must hold dtype and vocabulary, it holds"):
        data.load(f"tokens:{tmp_path}")
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokens\.json is no JSON"):
        data.load(f"tokens:{tmp_path}")
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    texts, out = [tmp_path / "a.txt"], tmp_path / "out"
    for options, message in (
        ({"vocabulary": 100}, "vocabulary must be an integer >= 257, got 100"),
        ({"vocabulary": 300, "tokenizer": tmp_path / "a.txt"}, "not both"),
        ({"tokenizer": tmp_path / "a.txt"}, "is no file of the library tokenizers"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_tokens.write(texts, out, **options)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="byte pairs need the extra text"):
        make_tokens.write(texts, out, vocabulary=300)


def test_a_text_too_long_for_the_device_must_be_streamed(tmp_path):
    folder_of(tmp_path, train=range(50), valid=range(9), test=range(9))
    loaded = data.load(f"tokens:{tmp_path}")

    class Long(tokens.Tokens):
        def __len__(self):
            return 2**31

    mapped = loaded.train["tokens"]
    loaded.train["tokens"] = Long(mapped.paths, "uint16", 500)
    with pytest.raises(ValueError, match=r"has 2147483648 tokens .* --config.data.stream"):
        data.train_batches(loaded, 2, 0, length=4)
    batches = data.train_batches(loaded, 2, 0, length=4, stream=True)
    assert callable(batches)
