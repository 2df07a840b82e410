"""What a chain is made of: complex states, states it finds itself, layers in a stack, and what becomes not finite."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacspec as js
from jacspec.remedies import pascanu_omega

RNG = np.random.default_rng(0)
N, T = 3, 6
XS = jnp.asarray(RNG.standard_normal((T, 2)))


def draw(*shape):
    return jnp.asarray(0.5 * RNG.standard_normal(shape))


# -- complex states -----------------------------------------------------------------------------------------------


def test_a_complex_state_is_one_of_twice_as_many_reals():
    W = draw(N, N) + 1j * draw(N, N)
    h0 = draw(N) + 1j * draw(N)
    linear = js.jacobian_chain(lambda h, x: W @ h, h0, length=T)
    assert (linear.states.dtype, linear.states.shape, linear.shape) == (jnp.complex128, (T + 1, N), (2 * N, 2 * N))
    np.testing.assert_allclose(linear.states[-1], np.linalg.matrix_power(W, T) @ h0, rtol=1e-12)
    once = np.log(np.linalg.svd(np.linalg.matrix_power(W, T), compute_uv=False))
    np.testing.assert_allclose(js.log_singular_values(linear), np.repeat(once, 2), atol=1e-11)


@pytest.mark.parametrize("store", [True, False])
def test_a_complex_step_is_the_real_one_of_its_parts(store):
    W, V = draw(N, N) + 1j * draw(N, N), draw(N, N)

    def step(h, x):  # not holomorphic, and with a real leaf beside the complex one
        z, r = h["z"], h["r"]
        z = W @ z * jnp.exp(-(jnp.abs(z) ** 2)) + r + x[0]
        return {"r": jnp.tanh(V @ r + z.real), "z": z}

    def real(h, x):
        r, re, im = jnp.split(h, 3)
        out = step({"r": r, "z": re + 1j * im}, x)
        return jnp.concatenate([out["r"], out["z"].real, out["z"].imag])

    z, r = draw(N) + 1j * draw(N), draw(N)
    got = js.jacobian_chain(step, {"r": r, "z": z}, XS, store=store)
    want = js.jacobian_chain(real, jnp.concatenate([r, z.real, z.imag]), XS)
    np.testing.assert_allclose(got.dense(), want.dense(), atol=1e-12)
    np.testing.assert_allclose(js.log_singular_values(got), js.log_singular_values(want), atol=1e-10)
    np.testing.assert_allclose(got[2:].states["z"].imag, want.states[2:, 2 * N :], atol=1e-13)
    np.testing.assert_allclose(
        js.log_gradient_norms(got, jnp.ones(3 * N)), js.log_gradient_norms(want, jnp.ones(3 * N))
    )


def test_a_complex_state_whose_step_is_real_stays_complex():
    chain = js.jacobian_chain(lambda h, x: jnp.abs(h), jnp.array([3 + 4j]), length=2)
    np.testing.assert_allclose(chain.states[:, 0], [3 + 4j, 5, 5])
    np.testing.assert_allclose(chain.dense()[0], [[0.6, 0.8], [0, 0]], atol=1e-15)


def test_layers_may_be_complex_in_between():
    W = draw(4, 4)
    layers = [js.layers.Dense(W), jnp.fft.fft, lambda z: z * jnp.exp(1j * jnp.abs(z)), lambda z: jnp.abs(z[:3])]
    x = draw(4)
    chain = js.layer_chain(layers, x)
    assert [state.dtype.kind for state in chain.states] == ["f", "f", "c", "c", "f"]
    P = functools.reduce(lambda P, J: J @ P, chain.dense())
    np.testing.assert_allclose(P, jax.jacfwd(lambda x: functools.reduce(lambda h, f: f(h), layers, x))(x), atol=1e-12)
    assert [J.shape for J in chain.dense()] == [(4, 4), (8, 4), (8, 8), (3, 8)]


# -- the first state, the length ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Elman", "LeakyElman", "GRU", "LSTM", "MGU", "MinimalRNN", "LRU"])
def test_a_cell_knows_its_zero_state(kind):
    gates = {"GRU": (3,), "LSTM": (4,), "MGU": (2,)}.get(kind, ())
    options = {"U": draw(*gates, N, 2)} if kind != "LRU" else {"B": draw(2, N, 2)}
    options |= {"rate": 0.5} if kind == "LeakyElman" else {}
    arrays = (draw(N), draw(N)) if kind == "LRU" else (draw(*gates, N, N),)
    cell = getattr(js.cells, kind)(*arrays, **options)
    zero = (jnp.zeros(N), jnp.zeros(N)) if kind in ("LSTM", "LRU") else jnp.zeros(N)
    found, want = js.jacobian_chain(cell, None, XS), js.jacobian_chain(cell, zero, XS)
    for a, b in zip(jax.tree.leaves(found.states), jax.tree.leaves(want.states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_length_of_a_chain_is_its_number_of_steps():
    chain = js.jacobian_chain(js.cells.Elman(draw(N, N), draw(N, 2)), None, XS)
    assert (len(chain), len(chain[2:5]), len(chain[3:3])) == (T, 3, 0)
    assert len(js.layer_chain([jnp.tanh, jnp.sin], jnp.ones(N))) == 2


# -- layers in a stack ----------------------------------------------------------------------------------------------


def test_a_stack_takes_layers_between_cells():
    low, high = js.cells.LSTM(draw(4, N, N), draw(4, N, 2)), js.cells.LSTM(draw(4, 2, 2), draw(4, 2, 4))
    norm, dense = js.layers.LayerNorm(), js.layers.Dense(draw(4, N))
    step = js.stack(low, norm, dense, jnp.tanh, lambda v: 2 * v, high)

    def by_hand(states, x):
        a = low(states[0], x)
        return a, high(states[1], 2 * jnp.tanh(dense(norm(a[1]))))

    zero = tuple((jnp.zeros(n), jnp.zeros(n)) for n in (N, 2))
    got, want = js.jacobian_chain(step, zero, XS), js.jacobian_chain(by_hand, zero, XS)
    np.testing.assert_allclose(got.dense(), want.dense(), atol=1e-13)
    np.testing.assert_allclose(js.jacobian_chain(step, None, XS).dense(), want.dense(), atol=1e-13)
    with pytest.raises(TypeError, match=r"'states'.*got 4 of them.*2 states.*steps\[1\], steps\[2\], .* are layers"):
        js.jacobian_chain(step, zero * 2, XS)
    with pytest.raises(
        ValueError, match=r"(?s)layers\.Dense: argument 'h' does not fit; got shape \(2,\).*in steps\[2\]"
    ):
        js.jacobian_chain(js.stack(low, lambda v: v[:2], dense, high), zero, XS)
    with pytest.raises(ValueError, match=r"'h0' is None and the step does not know it"):
        js.jacobian_chain(js.stack(low, lambda h, x: h), None, XS)


def test_a_sequence_whose_state_has_another_width_than_its_input():
    W, U = draw(4, 4), draw(4, N)
    layer = js.over_time(lambda h, x, p: jnp.tanh(W @ h + U @ x), jnp.zeros(4))
    sequence = draw(5, N)
    assert layer(sequence, None).shape == (5, 4)
    with pytest.raises(TypeError, match=r"'initial' does not fit the step; got shapes \[\(3,\)\], expected \[\(4,\)\]"):
        js.over_time(lambda h, x, p: jnp.tanh(U @ x))(sequence, None)


# -- what is not finite ---------------------------------------------------------------------------------------------

STEPS = {  # h0, the step, and the first step whose Jacobian is not finite in forward or in reverse mode
    "healthy": (jnp.array([0.1, 2.0]), lambda h, x: 0.5 * h + jnp.tanh(h[::-1]), -1),
    "branch": (jnp.array([0.0, 2.0]), lambda h, x: 0.5 * h + jnp.where(h > 0, jnp.sqrt(h), 0), 1),
    "branch later": (jnp.array([1.0, 2.0]), lambda h, x: 0.5 * h + jnp.where(h > 0.5, jnp.sqrt(h - 0.5), 0) * 0, 2),
    "zero times": (jnp.array([0.0, 2.0]), lambda h, x: 0.5 * h + 0 * jnp.sqrt(h * h), 1),
    "norm": (jnp.zeros(2), lambda h, x: jnp.tanh(h) / (1 + jnp.linalg.norm(h)), 1),
    "infinite": (jnp.array([0.0, 1.0]), lambda h, x: jnp.sqrt(h), 1),
    "guarded": (
        jnp.array([0.0, 2.0]),
        lambda h, x: 0.5 * h + jnp.where(h > 0, jnp.sqrt(jnp.where(h > 0, h, 1)), 0),
        -1,
    ),
    "huge": (jnp.array([1e-300, 1e-300]), lambda h, x: jnp.minimum(1e300 * h, 1) * 1e-300, -1),
}
ASK = {
    "push": lambda chain: chain.push(jnp.ones(2))[1],
    "pull": lambda chain: chain.pull(jnp.ones(2))[1],
    "gradients": lambda chain: js.log_gradient_norms(chain, jnp.ones(2)),
    "spectrum": lambda chain: js.spectrum(chain, at=range(T + 1)).log_singular_values,
    "from the end": lambda chain: js.log_singular_values(chain, origin="end"),
    "k": lambda chain: js.spectrum(chain, k=1).log_singular_values,
    "exponents": lambda chain: js.lyapunov_exponents(chain).exponents,
}


def kept_and_anew(name):
    h0, step, _ = STEPS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chains = [js.jacobian_chain(step, h0, length=T, store=store) for store in (True, False)]
    return chains, [str(w.message) for w in caught if "jacspec" in str(w.message)]


def assert_same_answer(name, question):
    (kept, anew), first = map(ASK[question], kept_and_anew(name)[0]), STEPS[name][2]
    np.testing.assert_allclose(kept, anew, atol=1e-11)
    beyond = kept if question != "spectrum" else kept[max(first, 0) :]
    assert np.isnan(beyond).all() == (first >= 0)


@pytest.mark.parametrize("name", STEPS)
def test_a_jacobian_that_is_not_finite_is_told_with_its_step_however_it_is_kept(name):
    (h0, step, first), (chains, told) = STEPS[name], kept_and_anew(name)
    assert [int(chain.first_nonfinite) for chain in chains] == [first] * 2
    assert len(told) == (2 if first >= 0 else 0)
    assert all(f"the Jacobian of step {first} is not finite, though the states are" in text for text in told)
    assert all(np.isfinite(chain.states).all() for chain in chains)
    under_jit = jax.jit(
        lambda h: [js.jacobian_chain(step, h, length=T, store=s).first_nonfinite for s in (True, False)]
    )
    assert [int(t) for t in under_jit(h0)] == [first] * 2


@pytest.mark.parametrize("question", ["pull", "gradients", "spectrum"])
def test_what_is_kept_changes_no_answer_at_a_branch(question):
    assert_same_answer("branch later", question)


@pytest.mark.slow
@pytest.mark.parametrize("question", ASK)
@pytest.mark.parametrize("name", STEPS)
def test_what_is_kept_changes_no_answer(name, question):
    assert_same_answer(name, question)


@pytest.mark.parametrize("store", [True, False])
def test_a_window_behind_the_jacobian_that_is_not_finite_is_sound(store):
    step = lambda h, x: 0.5 * h + x * jnp.where(h > 0, jnp.sqrt(jnp.abs(h - 0.5)), 0)
    with pytest.warns(UserWarning, match="the Jacobian of step 1"):
        chain = js.jacobian_chain(step, jnp.array([0.5, 2.0]), jnp.ones((T, 1)), store=store)
    assert [int(chain[s:t].first_nonfinite) for s, t in ((0, T), (0, 1), (1, T), (0, 0))] == [1, 1, -1, -1]
    P = functools.reduce(lambda P, J: J @ P, chain.dense()[1:])
    np.testing.assert_allclose(js.log_singular_values(chain[1:]), np.log(np.linalg.svd(P)[1]), atol=1e-12)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_layer_whose_jacobian_is_not_finite_in_one_mode_only_is_named(narrow):
    layer = lambda h: jnp.where(h > 0, jnp.sqrt(h), 0.0)[: 2 if narrow else 4]
    with pytest.warns(UserWarning, match=r"jacspec\.layer_chain: the Jacobian of step 2 is not finite"):
        chain = js.layer_chain([lambda h: 2 * h, layer, jnp.tanh], jnp.array([0.0, 1.0, 0.0]))
    assert int(chain.first_nonfinite) == 2
    assert np.isnan(chain.pull(jnp.ones(2 if narrow else 3))[1])
    assert int(chain[2:].first_nonfinite) == -1


def test_a_state_that_overflows_is_told_with_its_leaf_and_the_way_out():
    step = lambda h, x: {"a": jnp.array([2, 1.5]) * h["a"], "b": 0.5 * h["b"]}
    words = (
        r"jacobian_chain: the state is not finite at step 1024: h\['a'\] overflowed float64, after at most 9\.0e\+307"
    )
    with pytest.warns(UserWarning, match=words + r" at step 1023.*chain\[:1023\] ends before it.*from_matrices"):
        chain = js.jacobian_chain(step, {"a": jnp.ones(2), "b": jnp.ones(1)}, length=5000)
    found = js.spectrum(chain[:1023])
    np.testing.assert_allclose(found.log_singular_values, 1023 * np.log([2, 1.5, 0.5]), rtol=1e-13)
    with pytest.warns(UserWarning, match=r"not finite at step 1: h holds NaN"):
        js.jacobian_chain(lambda h, x: jnp.log(-h), jnp.ones(1), length=2)


# -- what the cast to 32 bits loses ---------------------------------------------------------------------------------

TINY = np.array([1.0, 1e-60, 0.0])
CASTS = {
    "matrices": lambda v: js.JacobianChain.from_matrices(np.diag(v)[None]),
    "list of matrices": lambda v: js.JacobianChain.from_matrices([np.diag(v)]),
    "slopes": lambda v: js.JacobianChain.from_factors(v[None], np.eye(3, dtype=np.float32)),
    "factor": lambda v: js.JacobianChain.from_factors(np.ones((1, 3), np.float32), np.diag(v)),
    "parameter": lambda v: js.cells.Elman(np.diag(v)),
    "bias": lambda v: js.layers.Dense(np.eye(3, dtype=np.float32), v),
    "state": lambda v: js.jacobian_chain(lambda h, x: h, v, length=1),
    "complex state": lambda v: js.jacobian_chain(lambda h, x: h, v + 1j * v, length=1),
    "driver": lambda v: js.jacobian_chain(lambda h, x: h * x, np.ones(3, np.float32), v[None]),
    "complex driver": lambda v: js.jacobian_chain(lambda h, x: h * x.real, np.ones(3, np.float32), (1j * v)[None]),
    "input": lambda v: js.layer_chain([jnp.tanh], v),
    "vector": lambda v: js.JacobianChain.from_matrices(np.ones((1, 3, 3), np.float32)).push(v),
    "cotangent": lambda v: js.adjoints(js.JacobianChain.from_matrices(np.ones((1, 3, 3), np.float32)), v),
}


@pytest.mark.parametrize("name", CASTS)
def test_what_32_bits_cannot_hold_is_told_by_name(name):
    with jax.enable_x64(False):
        with pytest.warns(
            UserWarning, match=r"argument '.+' is (float64|complex128) .*1 of its values become zero.*1\.0e-60"
        ):
            CASTS[name](TINY)
        words = r"argument '.+' is beyond the range of (float32|complex64).*got 1e\+60 at index .*jax_enable_x64"
        with pytest.raises(ValueError, match=words):
            CASTS[name](np.array([1.0, 1e60, 0.0]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CASTS[name]((TINY * (TINY > 1e-30)).astype(np.float32))


def test_integers_beyond_32_bits_are_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"'xs' is beyond the range of int32.*1\.0995116e\+12"):
        js.jacobian_chain(lambda h, x: h * x, np.ones(1, np.float32), np.full((2,), 2**40))


@pytest.mark.parametrize(
    "T", [1, pytest.param(3, marks=pytest.mark.slow)]
)  # T + 1 = 2 is the number of parts of the state, too
def test_a_state_that_is_a_list_is_one_that_is_a_tuple(T):
    W = jax.random.normal(jax.random.key(0), (4, 4)) / 2
    step = lambda h, x: (jnp.tanh(W @ h[0] + x), jnp.tanh(W.T @ h[1] + h[0]))
    as_list = lambda h, x: list(step(tuple(h), x))
    xs, h0, g = (
        jax.random.normal(jax.random.key(1), (T, 4)),
        (jnp.zeros(4), jnp.ones(4)),
        (jnp.ones(4), jnp.arange(4.0)),
    )
    tuples, lists = js.jacobian_chain(step, h0, xs), js.jacobian_chain(as_list, list(h0), xs)
    assert jnp.array_equal(js.log_singular_values(tuples), js.log_singular_values(lists))
    stacked = jax.tree.map(lambda a: jnp.stack([a] * (T + 1)), g)
    every = [(g, list(g)), (stacked, list(stacked)), ([g] * (T + 1), [list(g)] * (T + 1))]
    for of_tuples, of_lists in every:
        a, b = js.adjoints(tuples, of_tuples), js.adjoints(lists, of_lists)
        assert jnp.array_equal(a.log_norms, b.log_norms)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, list(a.directions), b.directions))
        assert pascanu_omega(tuples, of_tuples) == pascanu_omega(lists, of_lists)
        a, b = (
            js.parameter_gradient_norms(s, h, xs, c)
            for s, h, c in ((step, h0, of_tuples), (as_list, list(h0), of_lists))
        )
        assert a.step_total == b.step_total
