"""Training without backpropagation: gradients estimated from function values.

``value_and_grad(loss, estimator)`` stands where ``jax.value_and_grad`` stands, so that every optax
chain trains with it; :func:`mezo`, :func:`conservative`, :func:`block_descent` and
:func:`rank_sgd` are solvers of their own.
"""

from optim.zeroth_order._block_descent import block_descent
from optim.zeroth_order._blockwise import blockwise
from optim.zeroth_order._cge import cge
from optim.zeroth_order._conservative import conservative
from optim.zeroth_order._deepzero import deepzero_rge
from optim.zeroth_order._descent import DescentState, Solver
from optim.zeroth_order._estimator import Estimator, value_and_grad
from optim.zeroth_order._forward_gradient import forward_gradient
from optim.zeroth_order._hybrid import hybrid
from optim.zeroth_order._mezo import MeZOState, mezo
from optim.zeroth_order._rank_sgd import (
    RankState,
    by_value,
    rank_direction,
    rank_sgd,
    rank_weights,
)
from optim.zeroth_order._rge import rge
from optim.zeroth_order._sign import sign
from optim.zeroth_order._sparse import random_mask, sparse

__all__ = [
    "DescentState",
    "Estimator",
    "MeZOState",
    "RankState",
    "Solver",
    "block_descent",
    "blockwise",
    "by_value",
    "cge",
    "conservative",
    "deepzero_rge",
    "forward_gradient",
    "hybrid",
    "mezo",
    "random_mask",
    "rank_direction",
    "rank_sgd",
    "rank_weights",
    "rge",
    "sign",
    "sparse",
    "value_and_grad",
]
