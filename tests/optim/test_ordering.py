"""Values that wait for others: nothing is copied, nothing is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optim
from optim import _xla_cpu


def test_a_donated_array_is_overwritten_after_its_last_reader(users_compiler):
    def step(wait, p, g):
        size = jnp.vdot(p, p)
        return p - (_xla_cpu.after(g, size) if wait else g), size

    def copies(wait):
        like = jax.ShapeDtypeStruct((4096,), np.float32)
        jitted = jax.jit(lambda p, g: step(wait, p, g), donate_argnums=0)
        compiled = jitted.lower(like, like).compile(users_compiler)
        return compiled.as_text().count("f32[4096]{0} copy(")

    assert (copies(False), copies(True)) == (1, 0)


@pytest.mark.parametrize("first", [0.0, -3.0, np.inf, -np.inf, np.nan])
def test_values_do_not_change(first):
    """Not even where the entry that the zero is made of is not finite."""
    tree = {"a": jnp.arange(3.0), "b": jnp.ones((), jnp.bfloat16)}
    earlier = [jnp.array([first, 1.0]), jnp.zeros((0, 2)), jnp.full((2, 2), first, jnp.float16)]
    out = jax.jit(_xla_cpu.after)(tree, earlier)
    jax.tree.map(np.testing.assert_array_equal, out, tree)
    assert jax.tree.map(jnp.result_type, out) == jax.tree.map(jnp.result_type, tree)


def test_no_derivative():
    slope = jax.jit(jax.grad(lambda x: _xla_cpu.after(2.0, x) * x))(jnp.float32(3))
    assert slope == 2


def test_diffgrad_keeps_the_last_gradient_where_a_parameter_is_not_a_number():
    tx = optim.diffgrad(0.1)
    params, grads = jnp.array([jnp.nan, 1.0]), jnp.array([1.0, 2.0])
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_array_equal(state[1].prev_grad, grads)
