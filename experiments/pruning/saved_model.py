"""What pruning leaves: the pruned model, a physically smaller one, and what they cost."""

import io
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import export
from experiments import models
from experiments.common import files

NORM = ("scale", "bias", "mean", "var")


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {bilevel.masks.path_name(p): x for p, x in pairs}


def chains(model: str, params: Any, stats: Any) -> list[export.Chain]:
    """Returns the convolutions of a model whose channels only one layer reads.

    In residual networks these are the first of each block, since the shortcut reads the others;
    of a model with another shape of names, none.
    """
    known = {**named(params), **named(stats)}
    tops = sorted({name.split("/")[0] for name in known})

    def chain(producer, norm, consumer):
        between = (f"{producer}/bias", *(f"{norm}/{k}" for k in NORM))
        between = tuple(name for name in between if name in known)
        return export.Chain(f"{producer}/kernel", between, f"{consumer}/kernel")

    blocks = [t for t in tops if t.startswith("block_")]
    if blocks:
        # Before the activation, or before the convolution.
        norm = "norm_1" if model.startswith("wrn") else "norm_0"
        return [chain(f"{b}/conv_0", f"{b}/{norm}", f"{b}/conv_1") for b in blocks]
    layers = [t for t in tops if t.startswith("conv_")]
    if not layers:
        return []
    layers.append("hidden" if "hidden" in tops else "classifier")
    return [chain(a, a.replace("conv", "norm"), b) for a, b in itertools.pairwise(layers)]


def smaller(
    model: models.Model, params: Any, stats: Any, masks: Any, links: list[export.Chain], x: Any
) -> tuple[Any, Any]:
    """Cuts pruned filters and channels out; checks that the outputs at ``x`` stay.

    The outputs are those of the model whose pruned filters are silent (``bilevel.export.tie``).

    Raises:
      RuntimeError: When the outputs differ by more than 1e-5 of the largest.
    """
    masks = export.tie(params, masks, links)
    small = export.shrink(params, stats, masks, links)
    forward = jax.jit(lambda params, stats: model.apply(params, stats, x, train=False)[0])
    want, got = forward(bilevel.masks.apply(masks, params), stats), forward(*small)
    gap = float(jnp.abs(got - want).max() / jnp.abs(want).max())
    if not gap <= 1e-5:
        raise RuntimeError(f"outputs of the smaller model differ by {gap:.1e} of the largest")
    return small


def save(
    folder: Path,
    params: Any,
    stats: Any,
    masks: Any,
    report: bilevel.Report,
    structure: str = "weight",
) -> None:
    """Writes ``pruned.npz`` (matrices as CSR or packed N:M, masks as bits) and ``report.txt``."""
    arrays: dict[str, Any] = {}
    kept = named(masks)
    for name, x in named(params).items():
        if name in kept and np.ndim(x) == 2 and ":" in structure:
            packed = export.to_nm(x, structure)
            arrays[f"params/{name}/nm_values"] = packed.values
            arrays[f"params/{name}/nm_positions"] = packed.positions
            arrays[f"params/{name}/nm_shape"] = np.array(packed.shape)
            arrays[f"params/{name}/nm_m"] = np.array(packed.m)
        elif name in kept and np.ndim(x) == 2:
            sparse = export.to_csr(x)
            for field in ("data", "indices", "indptr"):
                arrays[f"params/{name}/{field}"] = getattr(sparse, field)
            arrays[f"params/{name}/shape"] = np.array(sparse.shape)
        else:
            arrays[f"params/{name}"] = np.asarray(x)
        if name in kept:
            arrays[f"masks/{name}"] = np.packbits(np.asarray(kept[name]))
    arrays |= {f"stats/{name}": np.asarray(x) for name, x in named(stats).items()}
    _write(folder / "pruned.npz", arrays)
    files.write(folder / "report.txt", f"{report}\n")


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns parameters, statistics and masks by path, as :func:`save` wrote them.

    Raises:
      ValueError: When the folder holds no finished run, or its file is damaged.
    """
    file = folder / "pruned.npz"
    if not file.exists():
        raise ValueError(f"there is no {file}: {folder} is no finished run of experiments.prune")
    try:
        with np.load(io.BytesIO(file.read_bytes())) as z:
            arrays = dict(z)
    except Exception as error:  # Whatever a damaged file makes its reader raise.
        raise ValueError(
            f"{file} cannot be read ({error}); the command of its run writes it again"
        ) from error

    def part(prefix):
        return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}

    params, stats, bits = part("params/"), part("stats/"), part("masks/")
    for name in [n.removesuffix("/indptr") for n in params if n.endswith("/indptr")]:
        data, indices, indptr = (params.pop(f"{name}/{k}") for k in ("data", "indices", "indptr"))
        rows, columns = (int(n) for n in params.pop(f"{name}/shape"))
        sparse = export.CSR(data, indices, indptr, (rows, columns), (1, 1))
        params[name] = export.to_dense(sparse)
    for name in [n.removesuffix("/nm_m") for n in params if n.endswith("/nm_m")]:
        values, positions, m, shape = (
            params.pop(f"{name}/nm_{k}") for k in ("values", "positions", "m", "shape")
        )
        shape = tuple(int(n) for n in shape)
        params[name] = export.from_nm(export.NM(values, positions, shape, (0,), int(m)))

    def mask(name, x):
        if name not in bits:
            return None
        return np.unpackbits(bits[name], count=x.size).reshape(x.shape).astype(bool)

    params = dict(sorted(params.items()))
    return params, stats, {name: mask(name, x) for name, x in params.items()}


def save_smaller(file: Path, params: Any, stats: Any) -> None:
    """Writes the arrays of a smaller model by path, ``params/...`` and ``stats/...``."""
    _write(file, named({"params": params, "stats": stats}))


def _write(file: Path, arrays: dict[str, Any]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    files.write(file, content.getvalue())
