"""The Jacobian chain: a step, a sequence of drivers, and the ordered step Jacobians J_1 ... J_T between them.

The product is J_T ... J_1, newest on the left. Over time the drivers are inputs and the parameters are shared; over
depth the drivers are the layers' parameters. Everything jacspec computes is a question put to a chain by one
primitive, `JacobianChain.fold`, which walks it in either direction with one step Jacobian in hand.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jacspec._ground import checks
from jacspec._ground.arithmetic import rescale
from jacspec._ground.pytree import pytree
from jacspec.chain import _given, finiteness, series, state_trees
from jacspec.chain.source import Source
from jacspec.typing import State


@pytree
class JacobianChain:
    """The step Jacobians J_1 ... J_T along a trajectory h_0 ... h_T; `J_t` maps changes of h_{t-1} to changes of h_t.

    Build one with `jacobian_chain`, `layer_chain`, `from_matrices` or `from_factors`.

    Attributes:
        source: where J_t comes from: a scan over equal steps, or a list of operators where widths change.
        bad: index t of the first state h_t, driver or parameter with a NaN or Inf, -1 if none.
    """

    source: Source
    bad: Array

    @property
    def first_nonfinite(self) -> Array:
        """Index t of the first state h_t or step Jacobian J_t with a NaN or Inf, -1 if none.

        The Jacobians of analytic steps are looked at by the questions.
        """
        return finiteness.earliest(self.bad, finiteness.first_unsound(self.source.sound))

    @property
    def state_series(self) -> Any:
        """h_0 ... h_T as a series of T+1 entries (`jacspec.chain.series`); None if only matrices were given."""
        return state_trees.join(self.source.states)

    @property
    def states(self) -> State:
        """h_0 ... h_T with a leading axis T+1 (a list where widths change); None if only matrices were given."""
        return series.plain(self.state_series)

    @property
    def store(self) -> str:
        """What is kept in memory: ``"states"``, ``"matrices"``, ``"factors"`` or ``"operators"``."""
        return self.source.kept

    @property
    def length(self) -> int:
        """T, the number of step Jacobians."""
        return self.source.length

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the product: the sizes of the last and of the first state."""
        sizes = self.source.sizes()
        return sizes[-1], sizes[0]

    @property
    def rank_bound(self) -> int:
        """The narrowest width, and so the number of singular values that are not zero by shape."""
        return min(self.source.sizes())

    @property
    def dtype(self):
        """The dtype in which questions are answered: that of the chain, float32 at least."""
        return self.source.dtype

    def __len__(self) -> int:
        """T."""
        return self.length

    def __getitem__(self, window: slice) -> "JacobianChain":
        """The chain of steps t in a contiguous slice: ``chain[s:t]`` has the product J_t ... J_{s+1}.

        Raises:
            TypeError: for an index that is not a slice of step 1.
        """
        if not isinstance(window, slice) or window.step not in (None, 1):
            raise TypeError(checks.message("JacobianChain", "index", "must be a slice without a step", repr(window)))
        for end in (window.start, window.stop):
            if end is not None and not hasattr(end, "__index__"):
                raise TypeError(checks.message("JacobianChain", "index", "must be an integer", repr(end), "0..T"))
        start, stop, _ = window.indices(self.length)
        cut = self.source.window(slice(start, max(start, stop)))
        inside = (self.bad >= 0) & (self.bad <= stop)
        return JacobianChain(cut, jnp.where(inside, jnp.maximum(self.bad - start, 0), -1))

    def fold(self, f: Callable, carry: Any, *, reverse: bool = False, xs: Any = None) -> tuple[Any, Any]:
        """Walk the chain: ``carry, out = f(carry, J_t, x_t)`` for t = 1..T, or T..1 with `reverse`.

        Args:
            f: receives the carry, the step Jacobian and the t-th slice of `xs`.
            carry: the first carry; its shapes may change from step to step only where the chain's do.
            reverse: walk from the newest step to the oldest.
            xs: a pytree with leading axis T, in the order of time.

        Returns:
            The last carry and the outs in the order of time, stacked (a list where widths change).
        """
        carry, outs = self.source.fold(f, carry, reverse=reverse, xs=xs)
        return carry, series.plain(outs)

    def run(self, question: Callable, *arguments: Any, **static_arguments: Any) -> Any:
        """``question(chain, *arguments, **static_arguments)``, as one compiled program where all steps are equal.

        Args:
            question: a module-level function, by which the compiled program is cached; not a lambda.
            arguments: arrays and pytrees of them.
            static_arguments: hashable values.

        Returns:
            What the question answers.
        """
        return self.source.run(question, self, *arguments, **static_arguments)

    def dense(self) -> Array | list[Array]:
        """The step Jacobians as an array (T, n, n), oldest first; a list where widths change."""
        return self.fold(lambda carry, J, _: (carry, J.dense()), ())[1]

    def push(self, v: State) -> tuple[Array, Array]:
        """J_T ... J_1 v, as a unit-scaled array and its log scale.

        Args:
            v: (n,), or (n, k) for k vectors, or a pytree like h_0.

        Returns:
            (array of shape (m,) or (m, k) with unit columns, log of their Euclidean norms in nats; -inf for zero). Both NaN
            if the chain is not finite.

        Raises:
            TypeError: for what is neither a floating array nor like a state.
            ValueError: for a shape that does not fit, NaN or Inf.
        """
        return self._through("push", v, self.shape[1])

    def pull(self, u: State) -> tuple[Array, Array]:
        """(J_T ... J_1)^T u, as a unit-scaled array and its log scale; the arguments mirror those of `push`."""
        return self._through("pull", u, self.shape[0])

    def _through(self, verb: str, v: State, n: int) -> tuple[Array, Array]:
        name, argument = f"JacobianChain.{verb}", "v" if verb == "push" else "u"
        state = self.source.state_shape(0 if verb == "push" else self.length)
        if not hasattr(v, "ndim") and state is not None:
            want, have = jax.tree.structure(state), jax.tree.structure(v)
            if want != have:
                raise TypeError(checks.message(name, argument, "is no array and no state", have, want))
        flat = v if hasattr(v, "ndim") else ravel_pytree(state_trees.checked_state(name, argument, v))[0]
        flat = checks.array(name, argument, flat, (1, 2), "(n,) or (n, k)")
        if flat.shape[0] != n:
            raise ValueError(checks.message(name, argument, "does not fit", f"shape {flat.shape}", f"({n}, ...)"))
        checks.finite(name, argument, flat)
        V = (flat if flat.ndim == 2 else flat[:, None]).astype(self.dtype)

        def body(carry, J, _):
            V, log = rescale(getattr(J, verb)(carry[0]))
            return (V, carry[1] + log), None

        (V, log), _ = self.fold(body, rescale(V), reverse=verb == "pull")
        ok = self.first_nonfinite < 0
        V, log = jnp.where(ok, V, jnp.nan), jnp.where(ok, log, jnp.nan)
        return (V, log) if flat.ndim == 2 else (V[:, 0], log[0])

    @staticmethod
    def from_matrices(Js: Any, *, check: bool = True) -> "JacobianChain":
        """The chain of given step Jacobians.

        Args:
            Js: (T, n, n), or a sequence of matrices (n_t, n_{t-1}), oldest first.
            check: look at the values of concrete arrays.

        Raises:
            TypeError: for arrays that are not floating.
            ValueError: for shapes that do not follow on one another, or NaN or Inf.

        Warns:
            UserWarning: where a row consists of numbers near the smallest normal one, and those below it count as zeros.

        Example:
            >>> import jax.numpy as jnp, jacspec as js
            >>> js.JacobianChain.from_matrices(2.0 * jnp.ones((3, 1, 1))).push(jnp.ones(1))[1].round(3).item()
            2.079
        """
        return JacobianChain(_given.matrices("JacobianChain.from_matrices", Js, check), jnp.asarray(-1))

    @staticmethod
    def from_factors(d: Array, W: Array, *, check: bool = True) -> "JacobianChain":
        """The chain of J_t = diag(d_t) W, never formed.

        Args:
            d: slopes, (T, n).
            W: shared weight, (n, n).
            check: look at the values of concrete arrays.

        Raises:
            TypeError: for arrays that are not floating.
            ValueError: for shapes that do not fit, or NaN or Inf.

        Warns:
            UserWarning: as `from_matrices`.
        """
        return JacobianChain(_given.factors("JacobianChain.from_factors", d, W, check), jnp.asarray(-1))
