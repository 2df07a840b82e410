"""Remedies are values that are read, compose, and are refused by name; what they build is what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jacspec import tasks
from jacspec.comparison import Remedy, build, inputs, prepare, vocabulary
from jacspec.comparison.build import plan
from jacspec.tasks import Batch
from jacspec.tasks._stored import stored

TASK = tasks.temporal_order(10, dtype=jnp.float64)
BUDGET = {"width": 6, "depth": None, "updates": 30, "batch": 4, "learning_rate": 0.1, "rule": "sgd"}
row = lambda text, task=TASK, **options: plan(Remedy.parse(text), task, **(BUDGET | options))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("none", {}),
        (" lstm , forget_bias=-1.5 ", {"cell": "lstm", "forget_bias": -1.5}),
        ("clip=norm:1,clip=value:-1:0.5", {"clip": [("norm", [1.0]), ("value", [-1.0, 0.5])]}),
        ("clip=zclip", {"clip": [("zclip", [])]}),
        ("clip=agc:0.01", {"clip": [("agc", [0.01])]}),
        ("init=xavier,gain=1.2", {"init": "glorot", "gain": 1.2}),
        ("gru,chrono=50,layers=2", {"cell": "gru", "chrono": 50.0, "layers": 2}),
        ("omega=squared:2", {"omega": ["squared", 2.0]}),
        ("omega=norm", {"omega": ["norm", 1.0]}),
        ("flossing=16", {"flossing": ["both", 16]}),
        ("flossing=before:3", {"flossing": ["before", 3]}),
        ("norm=batch", {"norm": ["batch", "before"]}),
        ("norm=layer:after,residual", {"norm": ["layer", "after"], "residual": True}),
        ("cma_es,batch=8", {"search": "cma_es", "batch": 8}),
        ("weight_decay=1e-4,lr=0.5,optimizer=adam", {"weight_decay": 1e-4, "lr": 0.5, "optimizer": "adam"}),
    ],
)
def test_a_text_is_read(text, fields):
    as_lists = lambda v: [as_lists(x) for x in v] if isinstance(v, (list, tuple)) else v
    assert {k: as_lists(v) for k, v in Remedy.parse(text).given().items()} == {
        k: as_lists(v) for k, v in fields.items()
    }


def test_remedies_compose():
    a, b = Remedy.parse("clip=norm:1"), Remedy.parse("clip=value:0.5,gru")
    assert a + b == Remedy.parse("clip=norm:1,clip=value:0.5,gru") == Remedy.parse("gru,clip=norm:1,clip=value:0.5")
    assert (a + b).clip != (b + a).clip  # the order of clipping is part of it
    assert a + Remedy() == Remedy() + a == a
    assert str(Remedy() + Remedy()) == "none"
    with pytest.raises(ValueError, match="sets 'cell' twice"):
        b + Remedy.parse("lstm")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lsmt", "'lsmt'.*Did you mean 'lstm'"),
        ("flosing=3", "'flosing'.*Did you mean 'flossing'"),
        ("clip=nrom:1", "'nrom'.*Did you mean 'norm'"),
        ("activation=rellu", "Did you mean 'relu'"),
        ("init=critcal", "Did you mean 'critical'"),
        ("clip=norm:0", "max_norm.*0.*max_norm > 0"),
        ("clip=norm:nan", "max_norm.*nan.*max_norm > 0"),
        ("clip=leaf:-1", "max_norm.*-1"),
        ("clip=value:0.5:-1", "max_value > 0"),
        ("clip=autoclip:101", "percentile"),
        ("clip=norm", "another count of numbers.*0, expected 1"),
        ("clip=norm:one", "'one'"),
        ("clip", "lacks its value.*clip=norm:1"),
        ("lstm=1", "takes no value"),
        ("none,gru", "stands alone"),
        ("", "is unknown; got ''"),
        ("lr=0", "a finite number > 0"),
        ("lr=1e999", "a finite number > 0"),
        ("weight_decay=-1", "out of range"),
        ("batch=2.5", "whole number"),
        ("flossing=0", "whole number >= 1"),
        ("chrono=2,lstm", "> 2"),
        ("lstm,gru", "sets 'cell' twice; got lstm and gru"),
        ("chrono=50", "'elman' has none"),
        ("forget_bias=0", "'elman' has none"),
        ("forget_bias=1,leaky_elman", "'leaky_elman' has none"),
        ("lstm,chrono=50,forget_bias=1", "set the same bias"),
        ("rate=0.5", "rate=0.5 with 'elman'"),
        ("leaky_elman,rate=2", "a rate in"),
        ("lru,init=orthogonal", "law of its own"),
        ("mgu,init=critical", "'critical' is not known for 'mgu'"),
        ("lstm,init=critical_orthogonal", "'critical_orthogonal' is not known for 'lstm'"),
        ("lstm,residual", "'cell' is for recurrent networks, 'residual' for deep ones"),
        ("omega=norm,norm=layer", "'omega' is for recurrent networks, 'norm' for deep ones"),
        ("norm=weight:before", "normalizes weights"),
        ("es,clip=norm:1", "'clip' acts on gradients"),
        ("pso,lr=0.1", "'lr' acts on gradients"),
        ("es,ga", "sets 'search' twice"),
        ("whiten,standardize", "one of them"),
    ],
)
def test_what_is_refused_by_name(text, words):
    with pytest.raises(ValueError, match=words):
        Remedy.parse(text)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("residual", {}, "not for a recurrent network.*'residual'"),
        ("skipinit", {}, "not for a recurrent network"),
        ("lstm", {"depth": 3}, "not for a deep network.*'cell'"),
        ("flossing=2", {"depth": 3}, "not for a deep network"),
        ("norm=batch", {"depth": 3, "batch": 1}, "batch of two"),
        ("flossing=7", {}, "more exponents than units; got 7, expected at most 6"),
        ("reweight", {}, "no shift of inputs"),
        ("cma_es", {"width": 20}, "full covariance; got .* parameters"),
        ("none", {"depth": 3, "task": tasks.delayed_copy(15)}, "'depth' is for one answer a sequence"),
    ],
)
def test_what_contradicts_the_task_is_refused(text, options, words):
    with pytest.raises(ValueError, match=words):
        row(text, **options)


def test_every_word_of_the_vocabulary_builds_a_row():
    context = {"forget_bias=1": "lstm", "chrono=50": "lstm", "rate=0.1": "leaky_elman"}
    deep = {"residual", "skipinit", "norm=batch:before", "reweight"}
    for word in vocabulary():
        text = f"{context[word]},{word}" if word in context else word
        task = tasks.digits() if word in deep else TASK
        made = row(text, task, depth=3 if word in deep else None, width=16 if word == "flossing=16" else 6)
        assert made.parameters > 0
        assert made.law
        assert isinstance(made.optimizer(), optax.GradientTransformation)


# What is built


def test_clipping_comes_first_and_weight_decay_is_not_clipped():
    p, g = jnp.array([100.0, 0.0]), jnp.array([0.0, 3.0])
    rule = row("clip=norm:1,weight_decay=0.1").optimizer()
    np.testing.assert_allclose(jax.jit(rule.update)(g, jax.jit(rule.init)(p), p)[0], [-1.0, -0.1], atol=1e-15)

    def third(rule):
        state = rule.init(p)
        for t in range(3):
            update, state = rule.update(g + t, state, p)
        return update

    ours, theirs = row("weight_decay=0.1,optimizer=adam,lr=0.2").optimizer(), optax.adamw(0.2, weight_decay=0.1)
    np.testing.assert_allclose(*jax.jit(lambda: (third(ours), third(theirs)))(), rtol=1e-12)


def test_a_unit_of_adaptive_clipping_is_a_row_of_w():
    W, g = np.ones((3, 4)), np.ones((3, 4)) * np.array([[1e-3], [1.0], [5.0]])
    rule = Remedy.parse("clip=agc:0.1").clipping()[0]
    found = jax.jit(lambda g, W: rule.update(g, rule.init(W), W)[0])(g, W)
    np.testing.assert_allclose(found, [[1e-3] * 4, [0.1] * 4, [0.1] * 4], rtol=1e-12)


def test_clipping_transformations_act_in_the_order_in_which_they_are_written():
    g = jnp.array([3.0, 4.0])
    for text, want in (("clip=norm:1,clip=value:0.7", [-0.6, -0.7]), ("clip=value:0.7,clip=norm:1", [-0.7, -0.7])):
        rule = row(text, learning_rate=1.0).optimizer()
        np.testing.assert_allclose(jax.jit(lambda g, rule=rule: rule.update(g, rule.init(g))[0])(g), want, rtol=1e-12)


def test_rows_have_the_same_budget():
    sequences = BUDGET["updates"] * BUDGET["batch"]
    for text, size in (("none", 4), ("batch=8", 8), ("clip=zclip", 4)):
        made = row(text)
        assert (made.batch, made.updates * made.batch) == (size, sequences)
    flossed = row("flossing=2")
    assert (flossed.flossed, flossed.updates) == (6, 24)
    assert row("flossing=during:2").flossed == 0
    made = row("sep_cma_es", updates=1000)
    spent = made.updates * made.batch * build.POPULATION
    assert spent <= 3 * 4 * 1000 < spent + made.batch * build.POPULATION  # a gradient is three forward passes


def test_a_remedy_changes_nothing_else_about_the_start():
    start = lambda text, **options: nnx.state(row(text, **options).make(nnx.Rngs(3)), nnx.Param)
    none, clipped, scaled = (start(text) for text in ("none", "clip=norm:1", "gain=2"))
    jax.tree.map(np.testing.assert_array_equal, none, clipped)
    W = lambda state: np.asarray(state["cells"][0]["W"][...], float)
    np.testing.assert_allclose(W(scaled), 2 * W(none), rtol=1e-6)
    np.testing.assert_array_equal(scaled["head"]["W"][...], none["head"]["W"][...])
    large = W(start("none", width=50))
    assert abs(large.var() * 50 - 1) < 4 * np.sqrt(2 / 2500)  # variance 1/n, standard error of a variance


def test_whitened_inputs_have_no_correlation():
    for task, whole in ((TASK, False), (tasks.digits(dtype=float), True)):
        seen = inputs.whitened(task, whole=whole)
        shape = (inputs.SAMPLE, -1) if whole else (-1, task.features)
        raw, x = (np.asarray(t.sample(jax.random.key(0), inputs.SAMPLE).inputs).reshape(shape) for t in (task, seen))
        share = np.linalg.eigvalsh(np.cov(raw.T, bias=True)) / raw.var(axis=0).sum()
        varies = share > inputs.KEPT
        assert 1 <= np.sum(~varies) < 12  # one-hot features sum to 1; pixels at the edge are never inked
        values = np.linalg.eigvalsh(x.T @ x / len(x))
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(values, np.sort(varies), atol=1e-9)  # eps over the smallest share
        before, after = (t.evaluation(jax.random.key(1), 5) for t in (task, seen))
        assert before.inputs.shape == after.inputs.shape
        np.testing.assert_array_equal(before.targets, after.targets)


def test_standardized_inputs_keep_constant_features_at_zero():
    seen = inputs.standardized(tasks.digits(dtype=float), whole=True)
    x = np.asarray(seen.sample(jax.random.key(0), inputs.SAMPLE).inputs).reshape(inputs.SAMPLE, -1)
    varies = x.std(axis=0) > 0
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=0)[varies], 1, rtol=1e-12)
    assert 50 < varies.sum() < 64


def test_reweighting_knows_a_gaussian_shift():
    rng, n = np.random.default_rng(0), 2000
    x = {"train": rng.standard_normal((n, 1, 1)), "held_out": 1 + rng.standard_normal((n, 1, 1))}
    batches = [Batch(jnp.asarray(v), jnp.zeros((n, 1, 1)), jnp.ones((n, 1))) for v in x.values()]
    seen = inputs.reweighted(stored("shift", *batches, 1, "squared", 1.0, 0.5))
    found = np.log(np.asarray(seen.data["train"].weights)[:, 0])
    slope = np.polyfit(x["train"].ravel(), found, 1)[0]
    z = np.concatenate([v.ravel() for v in x.values()])
    p = 1 / (1 + np.exp(0.5 - z))  # the truth: log p_held_out / p_train = x - 1/2
    information = np.cov(z, aweights=p * (1 - p)) * np.sum(p * (1 - p))
    assert abs(slope - 1) < 4 / np.sqrt(information)
    np.testing.assert_array_equal(seen.data["held_out"].weights, 1)


# Regularizers


def numpy_run(model, x):
    """States and step Jacobians of an Elman network."""
    W, U, b = (np.asarray(model.cells[0][name][...], float) for name in "WUb")
    h, states, Js = np.zeros(len(W)), [], []
    for drive in np.asarray(x, float):
        h = np.tanh(W @ h + U @ drive + b)
        states.append(h)
        Js.append((1 - h**2)[:, None] * W)
    return np.array(states), Js


def test_omega_is_that_of_the_dense_jacobians():
    task = tasks.temporal_order(10, dtype=jnp.float64)
    made = row("omega=norm:3,flossing=during:2", task)
    made = dataclasses.replace(made, arguments=made.arguments | {"dtype": jnp.float64})
    model, batch = made.make(nnx.Rngs(0)), task.sample(jax.random.key(0), 3)
    found = nnx.jit(made.regularizer())(model, batch)
    values, W, b = [], np.asarray(model.head["W"][...]), np.asarray(model.head["b"][...])
    for sequence, right in zip(batch.inputs, batch.targets[:, -1], strict=True):
        states, Js = numpy_run(model, sequence)
        likely = np.exp(W @ states[-1] + b)
        g = W.T @ (likely / likely.sum() - np.eye(len(W))[right])  # dE/dh_T up to a factor
        ratios = []
        for J in Js[::-1]:
            ratios.append(np.linalg.norm(J.T @ g) / np.linalg.norm(g))
            g = J.T @ g
        values.append(np.mean((np.array(ratios) - 1) ** 2))
    exponents = mean_squared_exponent(
        model, batch.inputs, 2
    )  # all three sequences, as `build.FLOSSED_SEQUENCES` is larger
    np.testing.assert_allclose(found, 3 * np.mean(values) + exponents, rtol=1e-10)


def mean_squared_exponent(model, x, k):
    """Of the leading k, by QR, after a fifth of the steps."""
    total = []
    for sequence in x:
        Q, logs = np.eye(model.width, k), []
        for J in numpy_run(model, sequence)[1]:
            Q, R = np.linalg.qr(J @ Q)
            logs.append(np.log(np.abs(np.diag(R))))
        total.append(np.mean(np.mean(logs[len(logs) // 5 :], axis=0) ** 2))
    return np.mean(total)


@pytest.mark.slow
def test_flossing_before_training_draws_the_exponents_to_zero():
    options = {"updates": 1000, "width": 5}
    batch = TASK.sample(jax.random.key(7), 8)
    x = batch.inputs
    plain, flossed = (row(text, **options).make(nnx.Rngs(1)) for text in ("none", "flossing=before:3"))
    before, after = (mean_squared_exponent(model, x, 3) for model in (plain, flossed))
    assert after < before / 2
    made = row("flossing=during:3", **options)
    few = x[: build.FLOSSED_SEQUENCES]
    found = nnx.jit(made.regularizer())(plain, batch)
    np.testing.assert_allclose(found, mean_squared_exponent(plain, few, 3), rtol=1e-4)


def test_preparing_computes_nothing(monkeypatch):
    monkeypatch.setattr(build, "_floss", lambda *_: pytest.fail("flossing ran"))
    assert len(prepare(TASK, ["none", "flossing=2", "whiten"], width=4).plans) == 3


@pytest.mark.parametrize("prepared", [inputs.standardized, inputs.whitened])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_inputs_of_every_size_come_out_with_variance_1(prepared, scale):
    data = Batch(
        scale * TASK.sample(jax.random.key(0), 200).inputs.astype(jnp.float32), *TASK.sample(jax.random.key(0), 200)[1:]
    )
    seen = prepared(stored("scaled", data, data, 4, "cross_entropy", 1.0, 0.5))
    plain = prepared(
        stored("plain", data._replace(inputs=data.inputs / jnp.float32(scale)), data, 4, "cross_entropy", 1.0, 0.5)
    )
    x, y = (np.asarray(task.sample(jax.random.key(1), 50).inputs) for task in (seen, plain))
    np.testing.assert_allclose(x, y, atol=1e-4)
    assert 0.5 < x.std() < 2


def test_extreme_numbers_are_refused_by_the_word_that_holds_them():
    words = [
        "lr=1e39",
        "lr=1e-39",
        "weight_decay=1e-50",
        "gain=4e38",
        "omega=norm:1e39",
        "lstm,forget_bias=-1e39",
        "lstm,chrono=1e300",
    ]
    for text in words:
        with pytest.raises(ValueError, match=rf"'{text.split(',')[-1]}' leaves the range of float32"):
            Remedy.parse(text)
    for kind in ("norm", "leaf", "value", "agc", "zclip"):
        with pytest.raises(ValueError, match=r"leaves the range of float32; got 1e\+39"):
            Remedy.parse(f"clip={kind}:1e39")
        with pytest.raises(ValueError, match=r"out of range; got .*inf, expected (a )?finite"):
            Remedy.parse(f"clip={kind}:inf")
    for text in ("batch=99999999999", "lstm,layers=2147483648", "flossing=1" + 30 * "0", "batch=" + 5000 * "9"):
        with pytest.raises(ValueError, match="whole number"):
            Remedy.parse(text)
    assert Remedy.parse("lstm,forget_bias=0").forget_bias == 0


def test_reweighting_multiplies_the_weights_that_are_there():
    x = jnp.linspace(0, 1, 40)[:, None, None] + jnp.zeros((40, 3, 1))
    weights = jnp.asarray(np.random.default_rng(0).uniform(0, 2, (40, 3)))
    make = lambda w: stored("s", Batch(x, x, w), Batch(x + 0.3, x, w), 1, "squared", 1.0, 0.5)
    plain, own = (inputs.reweighted(make(w)).data for w in (jnp.ones((40, 3)), weights))
    np.testing.assert_allclose(own["train"].weights, weights * plain["train"].weights, rtol=1e-12)
    np.testing.assert_array_equal(own["held_out"].weights, weights)
