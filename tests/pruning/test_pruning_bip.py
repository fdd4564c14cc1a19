"""BiP replays the authors' code and the paper's equations step by step."""

import jax
import numpy as np
import pytest
from pruning_records import at, conv_loss, gap, load, mlp_loss, torch_sgd

import bilevel


def solver_of(record, **kwargs):
    kind = str(record["layer_type"])
    return bilevel.bip(
        torch_sgd(record["lr_w"], record),
        torch_sgd(record["lr_m"], record),
        float(record["k"]),
        curvature=1 / float(record["lr2"]),
        structure="weight" if kind == "unstructured" else kind,
        output_axis=0,
        input_axis=1,
        **kwargs,
    )


def replay(record, solver):
    params, stats, scores, _ = at(record, 0)
    loss = mlp_loss if stats is None else conv_loss
    state = solver.init(bilevel.pruning.problem(loss), scores, params, stats=stats)
    step = jax.jit(solver.step)
    worst = 0.0
    steps = len(record["loss_l"])
    for t in range(steps):
        batch = [(record["x" + k][t].astype(float), record["y" + k][t]) for k in "ul"]
        state, metrics = step(state, tuple(batch))
        params, stats, scores, masks = at(record, t + 1)
        assert all(map(np.array_equal, *map(jax.tree.leaves, (state.masks, masks))))
        worst = max(worst, gap(state.y, params), gap(state.x, scores))
        worst = max(worst, gap(state.stats, stats)) if stats is not None else worst
        worst = max(worst, abs(float(metrics["loss_lower"]) - record["loss_l"][t]))
        worst = max(worst, abs(float(metrics["loss_upper"]) - record["loss_u"][t]))
    return worst


@pytest.mark.fidelity
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bip_mlp_clean_paper", {}),
        ("bip_mlp_clean_official", {"authors": "implicit"}),
        ("bip_conv_clean_paper", {}),
        ("bip_mlp_official_clone", {"authors": "unaliased"}),
        ("bip_mlp_official_alias", {"authors": True}),
        (
            "bip_mlp_official_accelerate_clone",
            {"authors": "unaliased", "second_order": False},
        ),
        ("bip_conv_official_clone", {"authors": "unaliased"}),
        ("bip_conv_official_alias", {"authors": True}),
        ("bip_conv_filter_official_clone", {"authors": "unaliased"}),
        ("bip_conv_channel_official_clone", {"authors": "unaliased"}),
    ],
)
def test_replays_the_record(name, options):
    record = load(name)
    with jax.enable_x64(True):
        assert replay(record, solver_of(record, **options)) < 1e-9
