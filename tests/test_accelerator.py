"""The script for an accelerator: a failing section takes nothing with it, and the page says so."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import _profile, accelerator, training
from benchmarks.tpu_compiler import chips, matrix, page, updates

TPU = Path(__file__).parents[1] / "results" / "tpu"


def test_a_failing_and_a_late_section_are_said_and_the_others_run(monkeypatch, capsys):
    def fails(smoke):
        yield {"name": "MLP", "examples": 8, "ratio": 1.25}
        raise RuntimeError("out of memory:\n  3 GiB")

    def runs(smoke):
        assert smoke
        yield {"name": "ResNet-20", "examples": 8, "ratio": 1.75}

    monkeypatch.setattr(accelerator, "SECTIONS", {"population": fails, "solvers": runs})
    monkeypatch.setattr(accelerator.jax, "clear_caches", lambda: None)  # Other tests use them.
    found = accelerator.measure(["population", "solvers"], smoke=True, limit=60)
    assert [len(found[k]["rows"]) for k in found] == [1, 1]
    assert found["population"]["failed"] == "RuntimeError: out of memory: 3 GiB"
    assert found["solvers"]["failed"] == ""
    late = accelerator.measure(["population"], smoke=True, limit=-1)
    assert late["population"]["rows"] == []
    assert late["population"]["failed"].startswith("left out: it would have begun after")
    capsys.readouterr()

    about = {"device": "X", "command": "c", "devices": 1, "platform": "gpu", "versions": {}}
    sections = {"population": found["population"]}
    text = accelerator.page({**about, "smoke": True, "sections": sections})
    assert "| MLP | 8 | 1.25 | 1.5 |" in text
    assert "**Not whole**: RuntimeError: out of memory: 3 GiB" in text
    assert "its times mean nothing" in text
    rows = found["solvers"]["rows"]
    assert "| ResNet-20 | 8 | 1.75 | 1.5, missed |" in accelerator._population_table(rows)


def test_shares_and_goals_of_the_tables():
    copy = {"name": "copy", "parameters": 10**9, "seconds": 0.002, "bytes per second": 4e12}
    update = {"name": "lion", "seconds": 0.0058824, "temporaries": 0.0, "compiled in": 1.0}
    head, _, *table = accelerator._updates_table([copy, {**update, "share": 20 / 5.8824 / 4}])
    assert head == "1e9 parameters; a copy moves 4.00 TB/s."
    assert table[-1].startswith("| lion | 5.88 | 0.85 | 0.85, missed |")  # .84999

    row = {"name": "ResNet-20", "examples": 128, "compiled in": 1.0}
    fast = {**row, "per second": {"ours": 400.0, "PyTorch": 100.0}, "of PyTorch": 4.0}
    alone = {**row, "per second": {"ours": 400.0}}
    shown = accelerator._training_table([fast, alone])
    assert "| ResNet-20 | 128 | 400 | 100 | 4.00 | 2 | 1.0 |" in shown
    assert "| ResNet-20 | 128 | 400 | – | – | 2 | 1.0 |" in shown


@pytest.mark.parametrize(("speed", "goal"), [(0.79, "0.8, missed"), (0.81, "0.8")])
def test_the_page_of_the_cpu_names_a_missed_goal(speed, goal):
    shares = {kind: 0.2 for kind in (*_profile.KINDS, "the rest")}
    row = {"name": "ResNet-20", "examples": 128, "of PyTorch": {"ours": 0.4, "xla": speed}}
    row["per second"] = {"ours": 49.6, "xla": 99.6, "PyTorch": 125.0}
    row["shares"] = {**shares, "convolutions": 0.123}
    about = {"command": "c", "machine": "m", "cores": 2, "versions": {"jax": "1"}, "torch": "2"}
    milliseconds = {"default": 9, "xla": 2, "im2col": 7, "PyTorch": 3}
    kinds = ("forward", "gradient of the kernel")
    pieces = [{"layer": (3, 4, 5, 1), "piece": kind, "ms": milliseconds} for kind in kinds]
    about |= {"loops": [], "pieces": pieces, "examples of pieces": 128}
    text = training.page({**about, "rounds": 3, "models": [row]})
    assert f"| ResNet-20 | 128 | 50 | 100 | 125 | 0.40 | {speed} | {goal} |" in text
    assert "| ResNet-20 | 12 | 20 | 20 | 20 | 20 |" in text
    said = " ".join(text.split())
    assert "the step is 2.0 times as fast" in said
    assert (
        "take 18 ms together, 9 of them for gradients of kernels; by XLA's own code 4 and" in said
    )
    assert "in PyTorch 6 and 3. What a step by XLA's own code lacks" in said


def test_a_profile_knows_what_is_inside_a_fusion():
    def step(x, w):
        y = jnp.tanh(x @ w)
        return jax.lax.conv(y.reshape(16, 1, 16, 16), w[None, None, :3, :3], (1, 1), "SAME"), y

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    kinds = _profile.kinds_of(jax.jit(step).lower(shape, shape).compile().as_text())
    assert {"products", "convolutions", "the rest"} <= set(kinds.values())
    text = """
%inner (p: f32[2,3]) -> f32[3,2] {
  %p = f32[2,3]{1,0} parameter(0)
  ROOT %turned = f32[3,2]{1,0} transpose(%p), dimensions={1,0}
}

ENTRY %main (x: f32[2,3]) -> f32[3,2] {
  %x = f32[2,3]{1,0} parameter(0)
  %added.1 = (f32[2,3]{1,0}, f32[]) custom-call(%x)
  ROOT %fusion.2 = f32[3,2]{1,0} fusion(%x), kind=kLoop, calls=%inner
}
"""
    found = _profile.kinds_of(text)
    assert (found["fusion.2"], found["added.1"]) == ("copies and transpositions", "the rest")


def test_the_page_of_training_on_a_cpu_is_that_of_its_json():
    file = TPU.parent / "training_cpu.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert training.page(content) == file.with_suffix(".md").read_text(encoding="utf-8")


def test_the_page_of_the_tpu_compiler_is_that_of_its_json():
    content = json.loads((TPU / "compiler.json").read_text(encoding="utf-8"))
    assert page.page(content) == (TPU / "compiler.md").read_text(encoding="utf-8")
    rows = {row["name"]: row for row in content["parts"]["updates"]}
    rows["lion"]["bytes"] *= 1.03
    missed = "| lion (Optax) | 1.03 | 1.02, missed |"
    assert missed in page.page(content)
    rows["lion"]["host_calls"] = 1
    assert "With a call to the host or float64: lion (updates)." in page.page(content)


def ratios(content):
    rows = {row["name"]: row for row in content["parts"]["updates"]}
    return {
        name: row["bytes"] / rows[row["peer"]]["bytes"]
        for name, row in rows.items()
        if row["bound"] is not None
    }


MISSED = {"diffgrad", "frugal columns", "frugal rows"}


def test_which_bounds_the_committed_updates_keep():
    found = ratios(json.loads((TPU / "compiler.json").read_text(encoding="utf-8")))
    assert {n for n, r in found.items() if r > updates.UPDATES[n][2]} - MISSED == set()
    assert all(found[name] < 1.03 * updates.UPDATES[name][2] for name in MISSED)


def test_the_gradient_that_diffgrad_keeps_is_no_copy_where_the_step_makes_it():
    content = json.loads((TPU / "compiler.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in content["parts"]["matrix"]}
    ours, peer = rows["diffgrad"], rows["adamw (Optax)"]
    assert ours["made"] <= updates.UPDATES["diffgrad"][2] * peer["made"]
    assert ours["made"] < ours["given"]
    assert "| diffgrad | 56.0 | 2.00 | 33.5 | 1.31 | adamw (Optax) |" in page.page(content)


@pytest.fixture
def without_cache():
    jax.config.update("jax_enable_compilation_cache", False)  # No TPU's program is read back here.
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install -e '.[tpu]'")
def test_updates_compiled_now_keep_their_bounds(without_cache):
    names = ("adamw (Optax)", "lion (Optax)", "lion", "diffgrad")
    adamw, peer, lion, diffgrad = rows = [matrix.updated(name) for name in names]
    assert adamw["given"] == pytest.approx(28, abs=0.1)  # Each array read once and written once.
    assert lion["given"] <= 1.02 * peer["given"]
    assert diffgrad["made"] <= 1.6 * adamw["made"] < 1.6 * adamw["given"] < diffgrad["given"]
    for row in rows:
        assert row["cuda"]
        assert not row["host_calls"]
        assert not row["float64"]


def test_collectives_of_a_program_are_counted():
    program = """
    %all-reduce-scatter.2 (input: f32[8]) -> (f32[1]) {
      %all-reduce.2 = f32[8]{0} all-reduce(%input), channel_id=1, to_apply=%add
    }
    %fused_computation.1 (p: f32[2]) -> f32[8] {
      %all-gather.1 = f32[8] all-gather(%p), channel_id=5
    }
    %async_collective_fusion.2 (p: f32[2]) -> f32[8] {
      %all-gather.2 = f32[8] all-gather(%p), channel_id=5
    }
    ENTRY %main (a: f32[8], b: f32[8]) -> f32[] {
      %all-reduce.1 = (f32[], f32[8]{0:T(128)}, /*index=5*/f32[]) all-reduce(%a, %b), channel_id=1
      %sum = f32[] get-tuple-element(%all-reduce.1), index=0
      %gather = (f32[2], f32[8]) all-gather-start(%c), metadata={op_name="jit(step)/all-reduce"}
      %done = f32[8] all-gather-done(%gather)
      %part = f32[1]{0} reduce-scatter(%d), to_apply=%add
      ROOT %fused = f32[1] fusion(%d), kind=kCustom, calls=%all-reduce-scatter.2
    }
    """
    counted = {"all-reduce": 1, "reduce-scatter": 2, "all-gather": 2}
    assert chips.collectives(program) == counted
