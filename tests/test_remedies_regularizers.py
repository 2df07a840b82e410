"""Omega and flossing against dense computations, the published program, and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jacspec as js
from jacspec import remedies

n, m, T = 5, 3, 7
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.standard_normal((n, n)) / np.sqrt(n))
U = jnp.asarray(RNG.standard_normal((n, m)))
B = jnp.asarray(0.3 * RNG.standard_normal(n))
XS = jnp.asarray(RNG.standard_normal((T, m)))
FORMS = ("norm", "squared")
LOSSES = jnp.asarray(RNG.standard_normal((T + 1, n)))  # dE_t/dh_t, a loss at every step


def chain_of(W, xs=XS, **options):
    return js.jacobian_chain(js.cells.Elman(W, U, B), jnp.zeros(n), xs, **options)


def dense_ratios(W, cotangents):
    """||J_t^T g_t|| / ||g_t|| by plain matrices."""
    h, Js = np.zeros(n), []
    for x in np.asarray(XS):
        h = np.tanh(W @ h + np.asarray(U) @ x + np.asarray(B))
        Js.append((1 - h**2)[:, None] * W)
    g, ratios = np.asarray(cotangents[-1]), []
    for J, immediate in zip(Js[::-1], np.asarray(cotangents)[-2::-1], strict=True):
        ratios.append(np.linalg.norm(J.T @ g) / np.linalg.norm(g))
        g = immediate + J.T @ g
    return np.array(ratios[::-1])


def directional(f, x, seed):
    """The derivative of f at x in a random direction, by central differences of fourth order, and the direction."""
    direction = np.random.default_rng(seed).standard_normal(x.shape)
    at = lambda s: np.asarray(f(x + s * direction))
    step = 1e-3
    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step), direction


def test_omega_is_that_of_dense_matrices():
    kinds = [(form, mean) for form in ("norm", "squared") for mean in (False, True)]

    @jax.jit
    def ask(W):
        analytic, autodiff = chain_of(W), chain_of(W, jacobian="autodiff", store=False)
        routes = (analytic, LOSSES), (analytic, js.adjoints(analytic, LOSSES)), (autodiff, LOSSES)
        return [[remedies.pascanu_omega(*route, form=form, mean=mean) for route in routes] for form, mean in kinds]

    ratios = dense_ratios(np.asarray(W), LOSSES)
    for (form, mean), found in zip(kinds, ask(W), strict=True):
        terms = (ratios ** {"norm": 1, "squared": 2}[form] - 1) ** 2
        np.testing.assert_allclose(found, terms.mean() if mean else terms.sum(), rtol=1e-12)


def test_the_gradient_of_omega_is_that_of_finite_differences():
    f = jax.jit(lambda W: jnp.stack([remedies.pascanu_omega(chain_of(W), LOSSES, form=form) for form in FORMS]))
    want, direction = directional(f, W, 1)
    # the differences are good to (1e-3)^4 in derivatives of order 10, and to eps / 1e-3
    np.testing.assert_allclose(jnp.sum(jax.jit(jax.jacrev(f))(W) * direction, axis=(1, 2)), want, rtol=1e-8)


def published_omega(W, states, gradients):
    """Omega of the published program (rows are states, W_hh = W^T), one example; states and gradients are numbers."""
    passed = (gradients[1:] * (1 - states**2)) @ W
    before, after = (gradients[1:] ** 2).sum(1), (passed**2).sum(1)
    counts = before >= 1e-20
    ratio = np.where(counts, after / np.where(counts, before, 1), 1)
    return ((ratio - 1) ** 2).sum() / counts.sum()


def test_the_published_program_and_its_held_gradient():
    cotangent = 3e-9 * jnp.ones(n)  # so small that the threshold cuts the early steps off

    @jax.jit
    def ask(W):
        omega = lambda W, hold: remedies.pascanu_omega(
            chain_of(W), cotangent, form="squared", threshold=1e-20, mean=True, hold=hold
        )
        passing = js.adjoints(chain_of(W), cotangent)
        gradients = passing.directions * jnp.exp(passing.log_norms)[:, None]
        return *jax.value_and_grad(omega)(W, True), jax.grad(omega)(W, False), chain_of(W).states[1:], gradients

    value, held, free, states, gradients = map(np.asarray, ask(W))
    assert 0 < ((gradients[1:] ** 2).sum(1) >= 1e-20).sum() < T
    published = lambda W: published_omega(np.asarray(W), states, gradients)
    np.testing.assert_allclose(value, published(W), rtol=1e-12)
    want, direction = directional(published, W, 2)
    np.testing.assert_allclose(np.sum(held * direction), want, rtol=1e-8)
    assert np.abs(free - held).max() > 1e-2 * np.abs(held).max()  # the two are not the same


def test_omega_is_exact_far_beyond_the_range_of_floating_point():
    @jax.jit
    def ask(Js, threshold):
        return remedies.pascanu_omega(js.JacobianChain.from_matrices(Js), jnp.ones(2), threshold=threshold)

    tiny = jnp.tile(0.01 * jnp.eye(2), (400, 1, 1))  # g_0 is 1e-800
    np.testing.assert_allclose(ask(tiny, 0.0), 400 * 0.99**2, rtol=1e-13)
    np.testing.assert_allclose(ask(tiny, 1e-20), 6 * 0.99**2, rtol=1e-13)  # 2 * 1e-4^j >= 1e-20 for j = 0 .. 5
    orthogonal = jnp.asarray(np.linalg.qr(RNG.standard_normal((400, 2, 2)))[0])
    assert ask(orthogonal, 0.0) < 400 * 1e-30
    assert ask(0 * tiny, 0.0) == 1  # one step kills the gradient; none is left for the others
    slope = jax.jit(jax.grad(lambda W: remedies.pascanu_omega(chain_of(W), jnp.ones(n))))(jnp.zeros((n, n)))
    assert jnp.isfinite(slope).all()


def test_omega_of_layers_of_changing_width_and_of_a_batch():
    Ms = [np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate([(4, 2), (3, 4)])]
    g = np.array([1.0, -2.0, 0.5])
    late = np.linalg.norm(Ms[1].T @ g) / np.linalg.norm(g)
    early = np.linalg.norm(Ms[0].T @ Ms[1].T @ g) / np.linalg.norm(Ms[1].T @ g)

    @jax.jit
    def ask(Ms, batch):
        layers = remedies.pascanu_omega(js.JacobianChain.from_matrices(Ms), jnp.asarray(g))
        one = lambda xs: remedies.pascanu_omega(chain_of(W, xs), LOSSES)
        return layers, jax.vmap(one)(batch), (one(batch[0]), one(batch[1]))

    layers, both, alone = ask([jnp.asarray(M) for M in Ms], jnp.stack([XS, 2 * XS]))
    np.testing.assert_allclose(layers, (late - 1) ** 2 + (early - 1) ** 2, rtol=1e-13)
    np.testing.assert_allclose(both, alone, rtol=1e-12)
    assert both[0] != both[1]


def test_bad_input_of_omega():
    with pytest.raises(ValueError, match="norm"):
        remedies.pascanu_omega(chain_of(W), LOSSES, form="norms")
    with pytest.raises(ValueError, match="threshold"):
        remedies.pascanu_omega(chain_of(W), LOSSES, threshold=-1e-20)
    with pytest.raises(TypeError, match="threshold"):
        remedies.pascanu_omega(chain_of(W), LOSSES, threshold="0")
    with pytest.raises(TypeError, match=r"hold.*Linearized"):
        remedies.pascanu_omega(chain_of(W, jacobian="autodiff", store=False), LOSSES, hold=True)
    with pytest.raises(TypeError, match="chain"):
        remedies.pascanu_omega(W, LOSSES)
    with pytest.raises(ValueError, match="cotangent"):
        remedies.pascanu_omega(chain_of(W), jnp.ones(n + 1))


@pytest.mark.parametrize(("transient", "target"), [(0, 0.0), (2, np.array([0.1, -0.2]))])
def test_flossing_is_that_of_dense_matrices(transient, target):
    Q, logs = np.eye(n)[:, :2], []
    for J in np.asarray(chain_of(W).dense()):
        Q, R = np.linalg.qr(J @ Q)
        logs.append(np.log(np.abs(np.diag(R))))
    exponents = np.sort(np.mean(logs[transient:], axis=0))[::-1]
    found = remedies.flossing(chain_of(W), k=2, target=jnp.asarray(target), transient=transient)
    np.testing.assert_allclose(found, np.mean((exponents - target) ** 2), rtol=1e-12)


def test_the_gradient_of_flossing_is_that_of_finite_differences():
    f = jax.jit(lambda W: remedies.flossing(chain_of(W), k=3, target=-0.1, transient=1))
    want, direction = directional(f, W, 3)
    np.testing.assert_allclose(jnp.sum(jax.jit(jax.grad(f))(W) * direction), want, rtol=1e-8)
    one = js.JacobianChain.from_matrices
    slope = jax.jit(jax.grad(lambda s: remedies.flossing(one(s * jnp.tile(jnp.eye(2), (9, 1, 1))), k=2)))(0.5)
    np.testing.assert_allclose(slope, 2 * np.log(0.5) / 0.5, rtol=1e-13)  # d/ds (log s)^2


def test_bad_input_of_flossing():
    with pytest.raises(ValueError, match=r"k.*1\.\.5"):
        remedies.flossing(chain_of(W), k=6)
    with pytest.raises(ValueError, match=r"target.*\(3,\)"):
        remedies.flossing(chain_of(W), k=3, target=jnp.zeros(2))
    with pytest.raises(TypeError, match="chain"):
        remedies.flossing(W, k=2)


@pytest.mark.slow
def test_flossing_opens_a_contracting_network():
    """A tanh RNN of 80 units at g = 0.5: its first 16 exponents reach 0, on inputs it has never seen."""
    units, k, updates = 80, 16, 300
    keys = jax.random.split(jax.random.key(0), 5)
    inputs = js.cells.Elman(
        0.5 / np.sqrt(units) * jax.random.normal(keys[0], (units, units)),
        np.sqrt(2 / (units + 1)) * jax.random.normal(keys[1], (units, 1)),
        jax.random.uniform(keys[2], (units,), maxval=0.1),
    )

    def chain(W, key, length):
        cell = js.cells.Elman(W, inputs.U, inputs.b)
        return js.jacobian_chain(cell, jnp.zeros(units), jax.random.normal(key, (length, 1)))

    optimizer = optax.chain(remedies.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(4e-3, updates)))

    def step(carry, key):
        W, state = carry
        g = jax.grad(lambda W: remedies.flossing(chain(W, key, 150), k=k, transient=30))(W)
        update, state = optimizer.update(g, state, W)
        return (W + update, state), None

    train = jax.jit(lambda W: jax.lax.scan(step, (W, optimizer.init(W)), jax.random.split(keys[3], updates))[0][0])

    @jax.jit
    def judge(W):
        fresh = chain(W, keys[4], 700)
        exponents = js.lyapunov_exponents(fresh, k=k, transient=100).exponents
        logs = js.log_singular_values(fresh[100:300])  # a product of 200 steps
        return jnp.mean(exponents**2), logs[0] - logs[k - 1], logs[0] - logs[-1]

    before, after = judge(inputs.W), judge(train(inputs.W))
    assert before[0] > 0.1
    assert after[0] < 1e-4
    assert before[1] - after[1] > np.log(10)  # of the flossed directions
    assert before[2] - after[2] > np.log(10)  # of the whole Jacobian


@pytest.mark.parametrize("width", [3, 4])
def test_adjoints_whose_directions_are_a_plain_list(width):
    layers = [js.layers.Dense(jax.random.normal(jax.random.key(0), (width, 3))), js.layers.LayerNorm()]
    chain = js.layer_chain(layers, jnp.arange(1.0, 4.0))
    found = js.adjoints(chain, jnp.arange(float(width)))
    plain = dataclasses.replace(found, directions=list(found.directions))
    assert remedies.pascanu_omega(chain, plain) == remedies.pascanu_omega(chain, found)
