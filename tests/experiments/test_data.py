"""Loaders on fixtures written here, order of batches, and what happens on the device."""

import bz2
import gzip
import itertools
import lzma

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.data import base, cifar, idx, libsvm, text
from experiments.data.prepare import pad_crop_flip

RNG = np.random.default_rng(0)


def take(iterator, n):
    return list(itertools.islice(iterator, n))


# Splits and names.


def test_digits_are_split_by_label_and_seed():
    a, again, other = (data.load("digits", seed=s) for s in (0, 0, 1))
    assert [len(p["label"]) for p in (a.train, a.valid, a.test)] == [1293, 144, 360]
    np.testing.assert_array_equal(a.test["image"], again.test["image"])
    assert not np.array_equal(a.test["label"], other.test["label"])
    assert np.bincount(a.test["label"]).tolist() == pytest.approx([36] * 10, abs=1)
    assert a.train["image"].dtype == np.uint8
    assert a.train["image"].max() == 16
    assert (a.input_shape, a.num_classes, a.scale) == ((8, 8, 1), 10, 16.0)


def test_a_split_loses_nothing_and_keeps_order():
    arrays = {"label": np.repeat(np.arange(3), [50, 30, 20]), "id": np.arange(100)}
    rest, part = base.split(arrays, 0.2, 7, stratify=True)
    assert sorted([*rest["id"], *part["id"]]) == list(range(100))
    assert np.bincount(part["label"]).tolist() == [10, 6, 4]
    assert np.all(np.diff(part["id"]) > 0)
    assert len(base.split(arrays, 0.0, 7, stratify=False)[1]["id"]) == 0


def test_no_validation_set_on_request():
    whole = data.load("digits", valid_fraction=0)
    assert len(whole.train["label"]) == 1437
    assert whole.valid["image"].shape == (0, 8, 8, 1)


def test_arrays_of_ones_own():
    image = RNG.integers(0, 256, (40, 5, 4, 3), np.uint8)
    label = np.arange(40) % 4
    mine = data.from_arrays("mine", (image, label), (image[:7], label[:7]))
    assert (mine.input_shape, mine.num_classes) == ((5, 4, 3), 4)
    assert [len(p["label"]) for p in (mine.train, mine.valid, mine.test)] == [36, 4, 7]
    batch = data.prepare(mine)(mine.train, np.arange(36), None)
    np.testing.assert_allclose(batch["x"].mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(batch["x"].std((0, 1, 2)), 1, rtol=1e-4)
    gray = data.from_arrays("gray", *[(image[..., 0], label)] * 3)
    assert (gray.input_shape, gray.train["image"].dtype) == ((5, 4, 1), np.uint8)
    flat = data.from_arrays("flat", *[(image.reshape(40, -1), label)] * 3)
    np.testing.assert_allclose(flat.test["x"], image.reshape(40, -1) / 255, rtol=1e-6)
    rows = data.from_arrays("rows", *[(np.arange(40).reshape(20, 2), label[:20])] * 3)
    assert rows.valid["x"].dtype == np.float32
    for wrong, message in (
        ((image, label[:3]), "one label per example"),
        ((image, label / 2), "integer labels from 0, got float64"),
        ((image, label.astype(str)), "integer labels from 0, got <U"),
        ((image, label - 1), r"integer labels from 0 below 2\^31 - 1, got -1"),
        ((image, label + 2**40), r"below 2\^31 - 1, got 1099511627776"),
        ((image[:, :4], label), r"examples of shape \(4, 4, 3\), not \(5, 4, 3\)"),
        ((np.full((40, 2), np.nan), label), "test must have finite inputs, got NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            data.from_arrays("mine", (image, label), wrong)


def test_a_data_set_of_ones_own_by_name(monkeypatch):
    made = data.from_arrays("rows", *[(np.eye(8), np.arange(8) % 2)] * 3)
    monkeypatch.setitem(data.DATASETS, "mine", lambda data_dir, rows=8: made)
    assert data.load("mine") is made
    with pytest.raises(ValueError, match=r"'mine': .*unexpected keyword argument 'row'"):
        data.load("mine", row=3)
    with pytest.raises(ValueError, match="unknown data set 'mien'; nearest: mine"):
        data.load("mien")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, r"unknown data set 'digit'; nearest: digits"),
        ("libsvm", {}, r"unknown data set 'libsvm'; nearest: libsvm:FILE"),
        ("digits", {"valid": 0.1}, r"data set 'digits': .*unexpected keyword argument 'valid'"),
        ("digits", {"valid_fraction": 1.5}, r"fraction must be in \[0, 1\), got 1.5"),
        ("mnist", {}, r"mnist needs --data_dir, a folder that holds mnist \(https"),
        ("text:x", {"tokens": "word"}, r"tokens must be char or byte, got 'word'"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, **options)


# IDX.


def write_idx(path, array):
    raw = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist(folder, suffix=""):
    folder.mkdir()
    arrays = {}
    for part, n in (("train", 20), ("t10k", 10)):
        arrays[part] = RNG.integers(0, 256, (n, 5, 4), np.uint8), np.arange(n, dtype=np.uint8) % 10
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", arrays[part][0])
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", arrays[part][1])
    return arrays


@pytest.mark.parametrize(
    ("name", "folder", "suffix"),
    [("mnist", "mnist", ".gz"), ("fashion_mnist", "fashion-mnist", "")],
)
def test_idx(tmp_path, name, folder, suffix):
    arrays = write_mnist(tmp_path / folder, suffix)
    loaded = data.load(name, tmp_path, valid_fraction=0.5)
    np.testing.assert_array_equal(loaded.test["image"][..., 0], arrays["t10k"][0])
    np.testing.assert_array_equal(loaded.test["label"], arrays["t10k"][1])
    assert np.bincount(loaded.valid["label"]).tolist() == [1] * 10
    assert loaded.input_shape == (5, 4, 1)


def test_broken_idx(tmp_path):
    write_mnist(tmp_path / "mnist")
    images, labels = (
        tmp_path / "mnist" / f"train-{n}-ubyte" for n in ("images-idx3", "labels-idx1")
    )
    raw = images.read_bytes()
    for broken, message in (
        (raw[:-7], "images-idx3-ubyte holds 393 bytes of data, expected 400 .*download"),
        (raw + b"x", "holds 401 bytes"),
        (raw[:10], "ends after 10 bytes, its header alone has 16; download it again"),
        (b"", "starts with nothing, expected 00000803"),
        (b"\x00\x00\x0d\x03" + raw[4:], "starts with 00000d03"),
    ):
        images.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            data.load("mnist", tmp_path)
    images.write_bytes(raw)
    write_idx(labels, np.zeros(19, np.uint8))
    with pytest.raises(ValueError, match="19 labels for 20 images"):
        data.load("mnist", tmp_path)
    write_idx(labels, np.full(20, 10, np.uint8))
    with pytest.raises(ValueError, match="holds the label 10; expected 0 to 9"):
        data.load("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"labels-idx1-ubyte\.gz not found; get it from"):
        data.load("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="fashion-mnist not found"):
        data.load("fashion_mnist", tmp_path)


def test_test_images_of_another_size_are_refused(tmp_path):
    write_mnist(tmp_path / "mnist")
    write_idx(tmp_path / "mnist" / "t10k-images-idx3-ubyte", np.zeros((10, 3, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"t10k-images.* \(3, 3\) pixels, the training images have"
    ):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda r: r[:-9], lambda r: b"no gzip", lambda r: r[:40]])
def test_broken_gzip(tmp_path, damage):
    path = tmp_path / "images.gz"
    write_idx(path, np.arange(60, dtype=np.uint8).reshape(3, 5, 4))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"images\.gz is no complete gzip file"):
        idx.read_idx(path, 3)


# CIFAR.


@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar(tmp_path, monkeypatch, name, label_bytes):
    monkeypatch.setattr(cifar, "RECORDS", {"train": 20, "test": 5})
    folder, files, _, classes, _ = cifar.SETS[name]
    (tmp_path / folder).mkdir()
    for part, names in files.items():
        for file in names:
            table = RNG.integers(
                0, 10, (cifar.RECORDS[part] // len(names), label_bytes + cifar.PIXELS), np.uint8
            )
            table.tofile(tmp_path / folder / file)
    loaded = data.load(name, tmp_path, valid_fraction=0)
    image, label = loaded.test["image"], loaded.test["label"]  # table is the test file's.
    np.testing.assert_array_equal(label, table[:, label_bytes - 1])
    for row, column, channel in ((0, 0, 0), (3, 7, 1), (31, 30, 2)):
        at = label_bytes + channel * 1024 + row * 32 + column
        np.testing.assert_array_equal(image[:, row, column, channel], table[:, at])
    assert len(loaded.train["label"]) == 20
    assert loaded.num_classes == classes

    path = tmp_path / folder / names[0]
    table[0, label_bytes - 1] = classes
    table.tofile(path)
    with pytest.raises(ValueError, match=f"holds the label {classes}"):
        data.load(name, tmp_path)
    path.write_bytes(table.tobytes()[:-100])
    with pytest.raises(ValueError, match=r"holds \d+ bytes, expected \d+ \(5 records of 307"):
        data.load(name, tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"not found; get it from https://www\.cs\.toronto"):
        data.load(name, tmp_path)


# LIBSVM.


def test_libsvm(tmp_path):
    (tmp_path / "libsvm").mkdir()
    train = "# head\n+1 1:0.5 3:-2\n-1\n\n+1 2:1e-1 4:0 # end\n-1 1:1\n"
    (tmp_path / "libsvm" / "toy").write_text(train)
    (tmp_path / "libsvm" / "toy.t").write_text("-1 5:7\n1 1:3\n")
    loaded = data.load("libsvm:toy", tmp_path, valid_fraction=0)
    expected = [[0.5, 0, -2, 0, 0], [0, 0, 0, 0, 0], [0, 0.1, 0, 0, 0], [1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(loaded.train["x"], np.float32(expected))
    np.testing.assert_array_equal(loaded.train["label"], [1, 0, 1, 0])
    np.testing.assert_array_equal(loaded.test["x"][:, 4], [7, 0])
    np.testing.assert_array_equal(loaded.test["label"], [0, 1])
    assert (loaded.classes, loaded.input_shape) == (("-1", "1"), (5,))
    assert data.load("libsvm:toy", tmp_path, n_features=9).input_shape == (9,)
    scaled = data.load("libsvm:toy", tmp_path, valid_fraction=0, standardize=True).train["x"]
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:, :3].std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("end", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_libsvm_may_be_packed_and_begin_with_a_byte_order_mark(tmp_path, end, pack):
    text = "\ufeff" + "-1 1:1\r\n1 2:1\r\n" * 10
    (tmp_path / f"toy.{end}").write_bytes(pack(text.encode()))
    (tmp_path / f"toy.t.{end}").write_bytes(pack(b"1 2:3"))
    for name in ("toy", f"toy.{end}"):
        loaded = data.load(f"libsvm:{name}", tmp_path)
        assert loaded.classes == ("-1", "1")
        np.testing.assert_array_equal(loaded.test["x"], [[0, 3]])
    (tmp_path / f"toy.{end}").write_bytes(pack(text.encode())[:-5])
    with pytest.raises(ValueError, match=rf"toy\.{end} is no complete"):
        data.load("libsvm:toy", tmp_path)


def test_large_integer_labels_stay_apart(tmp_path):
    (tmp_path / "ids").write_text("16777216 1:1\n16777217 1:2\n9007199254740991 1:3\n" * 8)
    loaded = data.load("libsvm:ids", tmp_path)
    assert loaded.classes == ("16777216", "16777217", "9007199254740991")
    np.testing.assert_array_equal(loaded.train["label"], loaded.train["x"][:, 0] - 1)
    (tmp_path / "ids").write_text("9007199254740993 1:1\n1 1:2\n")
    with pytest.raises(ValueError, match=r"line 1: label must be below 2\^53"):
        data.load("libsvm:ids", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7 1:1\n" * 9, "holds one label only, 7; expected two classes"),
        ("1 1:1\n2 4000000000:1\n" * 2, r"line 2: the index 4000000000 makes a dense array of 4 x"),
    ],
)
def test_libsvm_that_cannot_be_learned_from(tmp_path, text, message):
    (tmp_path / "toy").write_text(text)
    with pytest.raises(ValueError, match=message):
        data.load("libsvm:toy", tmp_path)


def test_libsvm_without_a_test_file_is_split_and_regression_keeps_its_labels(tmp_path):
    lines = [f"{i / 4} 1:{i}\n" for i in range(20)]
    (tmp_path / "price").write_text("".join(lines))
    loaded = data.load("libsvm:price", tmp_path)
    assert [len(p["label"]) for p in (loaded.train, loaded.valid, loaded.test)] == [14, 2, 4]
    assert loaded.num_classes == 1
    np.testing.assert_array_equal(loaded.test["label"], loaded.test["x"][:, 0] / 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2:x", "value must be a finite number, got 'x'"),
        ("1 2:nan", "value must be a finite number, got 'nan'"),
        ("1 2:1e300", "value must be a finite number, got '1e300'"),
        ("1 2", "expected index:value, got '2'"),
        ("1 a:2", "expected index:value, got 'a:2'"),
        ("1 0:2", "indices must ascend from 1, got '0:2'"),
        ("1 3:2 3:1", "indices must ascend from 1, got '3:1'"),
        ("1 12:2", "index must be <= 9, got '12:2'"),
        ("yes 1:2", "label must be a finite number, got 'yes'"),
    ],
)
def test_a_libsvm_line_that_does_not_parse(tmp_path, line, message):
    path = tmp_path / "bad"
    path.write_text(f"1 1:1\n\n{line}\n")
    with pytest.raises(ValueError, match=f"bad, line 3: {message}"):
        libsvm.parse(path, 9)


def test_other_broken_libsvm(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ValueError, match="empty has no rows"):
        data.load("libsvm:empty", tmp_path)
    (tmp_path / "a").write_text("1 1:1\n2 1:2\n")
    (tmp_path / "a.t").write_text("3 1:1\n")
    with pytest.raises(ValueError, match=r"a\.t holds the label 3, a none"):
        data.load("libsvm:a", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"b\.t not found"):
        data.load("libsvm:a", tmp_path, test="b.t")


# Text.


def test_text_is_cut_in_order(tmp_path):
    (tmp_path / "text").mkdir()
    written = "".join(RNG.choice(list("abcdé \n"), 200))
    (tmp_path / "text" / "input.txt").write_text(written, encoding="utf-8")
    loaded = data.load("text:input.txt", tmp_path)
    assert [len(p["tokens"]) for p in (loaded.train, loaded.valid, loaded.test)] == [180, 10, 10]
    tokens = np.concatenate([p["tokens"] for p in (loaded.train, loaded.valid, loaded.test)])
    assert "".join(loaded.classes[t] for t in tokens) == written
    assert (loaded.num_classes, tokens.dtype) == (7, np.uint8)
    bytes_ = data.load(f"text:{tmp_path}/text/input.txt", tokens="byte")
    assert bytes_.num_classes == 256
    assert bytes(bytes_.train["tokens"]) == written.encode()[: len(bytes_.train["tokens"])]


def test_text_is_read_without_byte_order_mark_and_carriage_returns(tmp_path):
    (tmp_path / "a.txt").write_bytes(("\ufeff" + "ab\r\nc\rd\n" * 30).encode())
    loaded = data.load("text:a.txt", tmp_path)
    assert loaded.classes == ("\n", "a", "b", "c", "d")
    whole = np.concatenate([p["tokens"] for p in (loaded.train, loaded.valid, loaded.test)])
    np.testing.assert_array_equal(whole, [1, 2, 0, 3, 0, 4, 0] * 30)
    as_bytes = data.load("text:a.txt", tmp_path, tokens="byte").train["tokens"]
    np.testing.assert_array_equal(as_bytes[:7], [0xEF, 0xBB, 0xBF, 97, 98, 13, 10])


def test_text_in_three_files(tmp_path):
    for part in text.PARTS:
        (tmp_path / f"ptb.{part}.txt").write_text(part)
    loaded = data.load(f"text:{tmp_path.name}", tmp_path.parent)
    assert "".join(loaded.classes[t] for t in loaded.valid["tokens"]) == "valid"
    (tmp_path / "ptb.valid.txt").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"ptb\.valid\.txt is not UTF-8 at byte 2"):
        data.load(f"text:{tmp_path.name}", tmp_path.parent)
    (tmp_path / "ptb.valid.txt").write_text("v")
    with pytest.raises(ValueError, match="the valid part has 1 tokens, expected 2 or more"):
        data.load(f"text:{tmp_path.name}", tmp_path.parent)
    (tmp_path / "ptb.valid.txt").unlink()
    with pytest.raises(FileNotFoundError, match="0 files for valid"):
        data.load(f"text:{tmp_path.name}", tmp_path.parent)
    with pytest.raises(FileNotFoundError, match="nowhere not found"):
        data.load("text:nowhere", tmp_path)


# Order.


def test_each_epoch_visits_every_example_once_in_its_own_order():
    batches = data.epoch_batches(10, 3, 5, drop_last=False)
    epochs = np.concatenate(take(batches(0), 8)).reshape(2, 10)
    assert [sorted(e) for e in epochs] == [list(range(10))] * 2
    assert not np.array_equal(*epochs)
    short = take(data.epoch_batches(10, 3, 5)(0), 6)
    assert {len(b) for b in short} == {3}
    np.testing.assert_array_equal(np.concatenate(short[:3]), epochs[0][:9])
    np.testing.assert_array_equal(np.concatenate(short[3:]), epochs[1][:9])
    assert not np.array_equal(epochs[0], take(data.epoch_batches(10, 10, 6)(0), 1)[0])


@pytest.mark.parametrize("kind", ["epoch", "window"])
def test_any_step_can_be_the_first_and_processes_share_a_batch(kind):
    def make(**share):
        if kind == "epoch":
            return data.epoch_batches(50, 8, 3, **share)
        return data.window_batches(50, 9, 8, 3, **share)

    whole = take(make()(0), 20)
    for start in (1, 6, 13):
        np.testing.assert_array_equal(take(make()(start), 5), whole[start : start + 5])
    shares = [take(make(process_index=i, process_count=2)(6), 4) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(shares, 1), whole[6:10])
    assert whole[0].dtype == np.int32
    assert max(b.max() for b in whole) <= (49 if kind == "epoch" else 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.epoch_batches(10, 0, 0), "batch_size must be an integer >= 1, got 0"),
        (lambda: data.epoch_batches(10, -4, 0), "batch_size must be an integer >= 1, got -4"),
        (lambda: data.epoch_batches(10, 11, 0), "batch_size must be <= 10 .*, got 11"),
        (lambda: data.epoch_batches(0, 1, 0), "n must be an integer >= 1, got 0"),
        (lambda: data.epoch_batches(10, 2, -1), "seed must be an integer >= 0, got -1"),
        (lambda: data.epoch_batches(10, 3, 0, process_count=2), "divisible by process_count = 2"),
        (
            lambda: data.epoch_batches(10, 2, 0, process_index=1),
            r"process_index must be in \[0, 1\)",
        ),
        (
            lambda: data.epoch_batches(11, 2, 0, drop_last=False, process_count=2),
            "last batch of 1 does not divide among 2",
        ),
        (lambda: data.window_batches(10, 10, 2, 0), r"length must be in \[1, 9\].*got 10"),
        (lambda: next(data.eval_windows(10, 0, 2)), r"length must be in \[1, 9\].*got 0"),
        (lambda: data.streamed({"a": np.zeros(3), "b": np.zeros(4)}, 1, 0), "arrays of one length"),
    ],
)
def test_wrong_order(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_evaluation_counts_every_example_once():
    batches = list(data.eval_batches(10, 4))
    assert {b["index"].shape for b in batches} == {(4,)}
    index, weight = (np.concatenate([b[k] for b in batches]) for k in ("index", "weight"))
    np.testing.assert_array_equal(index[weight > 0], np.arange(10))
    halves = [list(data.eval_batches(10, 4, process_index=i, process_count=2)) for i in (0, 1)]
    for a, b, both in zip(*halves, batches, strict=True):
        np.testing.assert_array_equal(np.concatenate([a["weight"], b["weight"]]), both["weight"])
        np.testing.assert_array_equal(np.concatenate([a["index"], b["index"]]), both["index"])


@pytest.mark.parametrize(("n", "length"), [(22, 5), (21, 5), (7, 6), (8, 1)])
def test_evaluation_counts_every_token_once(n, length):
    seen = np.zeros(n)
    for batch in data.eval_windows(n, length, 3):
        assert batch["weight"].shape == (3, length)
        assert batch["index"].max() + length < n
        targets = batch["index"][:, None] + 1 + np.arange(length)
        np.add.at(seen, targets, batch["weight"])
    np.testing.assert_array_equal(seen, [0] + [1] * (n - 1))


class Rows:
    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays["label"])

    def __getitem__(self, i):
        return base.take(self.arrays, i)


@pytest.mark.parametrize("source", [dict, Rows])
def test_streaming_gives_the_resident_batches_from_any_step(source):
    arrays = {"image": RNG.integers(0, 256, (30, 4, 4, 1), np.uint8), "label": np.arange(30)}
    order = data.epoch_batches(30, 8, 2)
    batches = data.streamed(source(arrays), 8, 2, threads=2)
    for start in (0, 5):
        for index, batch in zip(take(order(start), 6), batches(start), strict=False):
            np.testing.assert_array_equal(batch["label"], index)
            np.testing.assert_array_equal(batch["image"], arrays["image"][index])


# On the device.


def test_prepare_normalizes_and_passes_weights_on():
    arrays = {"image": RNG.integers(0, 256, (6, 3, 3, 2), np.uint8), "label": np.arange(6)}
    mean, std = (0.5, 0.25), (0.2, 0.4)
    toy = data.Dataset("toy", arrays, arrays, arrays, (3, 3, 2), 6, mean=mean, std=std)
    make = jax.jit(data.prepare(toy))
    index = np.array([4, 1], np.int32)
    batch = make(arrays, {"index": index, "weight": np.ones(2)}, None)
    expected = (arrays["image"][index] / 255 - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(batch["x"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch["label"], index)
    assert set(batch) == {"x", "label", "index", "weight"}
    rows = make({}, base.take(arrays, index), None)
    np.testing.assert_array_equal(rows["x"], batch["x"])
    with pytest.raises(ValueError, match="augment needs a key, got None"):
        data.prepare(toy, augment=True)(arrays, index, None)
    with pytest.raises(ValueError, match="pad must be an integer >= 0, got -1"):
        data.prepare(toy, pad=-1)


def test_prepare_leaves_vectors_as_they_are():
    arrays = {"x": np.float32(RNG.normal(size=(6, 3))), "label": np.arange(6)}
    toy = data.Dataset("toy", arrays, arrays, arrays, (3,), 6)
    batch = data.prepare(toy)(arrays, np.array([4, 1]), None)
    np.testing.assert_array_equal(batch["x"], arrays["x"][[4, 1]])
    with pytest.raises(ValueError, match="augment must be False for toy, which has no images"):
        data.prepare(toy, augment=True)


def test_windows_have_the_next_token_as_label():
    tokens = {"tokens": RNG.integers(0, 99, 200).astype(np.uint8)}
    toy = data.Dataset("toy", tokens, tokens, tokens, (), 99)
    batch = jax.jit(data.prepare(toy, length=7))(tokens, np.array([0, 192], np.int32), None)
    np.testing.assert_array_equal(batch["x"][1], tokens["tokens"][192:199])
    np.testing.assert_array_equal(batch["label"][1], tokens["tokens"][193:200])
    assert batch["x"].dtype == jnp.int32
    for length in (None, 0, 200):
        with pytest.raises(ValueError, match=rf"\[1, 199\] for toy, got {length}"):
            data.prepare(toy, length=length)
    assert data.steps_per_epoch(toy, 4, 7) == 7
    assert next(data.train_batches(toy, 4, 0, length=7)(0)).shape == (4,)
    assert next(data.evaluation_batches(toy, "valid", 4, length=7))["weight"].shape == (4, 7)


def test_pad_crop_flip():
    images = RNG.integers(1, 256, (64, 6, 5, 3), np.uint8)
    pad = 2
    out = np.asarray(jax.jit(pad_crop_flip, static_argnums=2)(images, jax.random.key(0), pad))
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    chosen = []
    for i in range(len(images)):
        windows = {}
        for y, x, flip in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True)):
            window = padded[i, y : y + 6, x : x + 5]
            windows[y, x, flip] = window[:, ::-1] if flip else window
        matches = [k for k, w in windows.items() if np.array_equal(w, out[i])]
        assert len(matches) == 1
        chosen += matches
    y, x, flip = map(set, zip(*chosen, strict=True))
    assert (y, x, flip) == (set(range(5)), set(range(5)), {False, True})
    assert 16 < sum(f for _, _, f in chosen) < 48
