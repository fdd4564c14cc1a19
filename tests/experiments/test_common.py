"""The small things that every main shares: files, tables in Markdown, pictures."""

import errno

import matplotlib.image
import numpy as np
import pytest

from experiments.common import checkpoints, figures, files, markdown


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.txt"
    files.write(path, "± one")
    assert path.read_text(encoding="utf-8") == "± one"

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt'"):
        files.write(path, b"two")
    assert path.read_text(encoding="utf-8") == "± one"
    assert list(path.parent.iterdir()) == [path]


def test_leaves_whose_paths_read_alike_come_back_from_a_checkpoint(tmp_path):
    state = {"a": {"b": np.ones(2)}, "a.b": np.zeros(3)}
    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, state)
    (restored, step) = store.restore(state)
    store.close()
    assert step == 1
    np.testing.assert_array_equal(restored["a"]["b"], state["a"]["b"])
    np.testing.assert_array_equal(restored["a.b"], state["a.b"])


def test_several_files_are_all_replaced_or_none(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    files.write_all({first: "old", second: "old"})
    with pytest.raises(TypeError):
        files.write_all({first: "new", second: None})  # pyrefly: ignore
    assert (first.read_text(), second.read_text()) == ("old", "old")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": [1, ', r"a\.json is no JSON: .*; put it back, or remove it"),
        ("[1]", "a JSON object"),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        files.read_json(tmp_path / "a.json")


def test_a_bar_inside_a_cell_does_not_break_the_table():
    lines = markdown.table(["a|b", "c"], [[1, "x"]], "r")
    assert lines == ["| a\\|b | c |", "|---:|---|", "| 1 | x |"]


def test_the_same_picture_is_the_same_bytes(tmp_path):
    def draw():
        made, (left, right) = figures.figure(2, title="a title " * 30, width=3, height=2)
        for axis in (left, right):
            for name, look in figures.looks(["one", "two"]).items():
                axis.plot([1, 2], [3, 4], **look._asdict(), label=name)
        figures.legend(made, left)
        return made

    figures.save(draw(), tmp_path / "a.png", dpi=100)
    assert (tmp_path / "a.png").read_bytes() == figures.content(draw(), dpi=100)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[:2] == (200, 600)


def test_no_two_of_many_names_look_the_same():
    looks = figures.looks(map(str, range(300)))
    assert len(set(looks.values())) == 300
