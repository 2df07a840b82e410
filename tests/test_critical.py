"""Critical scales: the variances are on the line, by simulation and by the theory's own maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import initializers as init
from jacspec.theory import mean_field, recurrent


def test_published_points():
    assert float(init.critical("relu").weight_variance) == pytest.approx(2, abs=1e-12)
    assert float(init.critical("linear").weight_variance) == pytest.approx(1, abs=1e-12)
    found = init.critical("tanh", bias_variance=0.05)
    assert float(found.weight_variance) == pytest.approx(1.7609546, abs=5e-8)
    assert float(found.q_star) == pytest.approx(0.5700479, abs=5e-8)
    assert bool(found.converged)
    assert float(found.branch_scale) == 1


def test_gradients_keep_their_size_at_the_critical_point_of_a_finite_network():
    """ln of the mean squared norm over 20 layers of width 400; its standard error over 40 vectors is about 0.05."""
    found, rng, n = init.critical("erf", bias_variance=0.1), np.random.default_rng(0), 400
    from scipy.special import erf

    sw, sb, q = (float(v) for v in (found.weight_variance**0.5, found.bias_variance**0.5, found.q_star))
    logs = []
    for _ in range(3):
        a = np.sqrt(q) * rng.standard_normal(n)
        V = rng.standard_normal((n, 40))
        start = np.log(np.mean(V**2))
        for _ in range(20):
            W = sw / np.sqrt(n) * rng.standard_normal((n, n))
            V = W @ (2 / np.sqrt(np.pi) * np.exp(-a * a)[:, None] * V)
            a = W @ erf(a) + sb * rng.standard_normal(n)
        logs.append(np.log(np.mean(V**2)) - start)
    assert abs(np.mean(logs)) < 0.3  # 20 layers at 1 % off criticality would add 0.2; one draw scatters by about 0.25
    wrong = [20 * np.log(float(mean_field.chi("erf", q, weight_variance=sw**2 * f))) for f in (0.9, 1.1)]
    assert min(map(abs, wrong)) > 1.5  # the test can tell


def test_a_driven_network_has_its_line_elsewhere():
    found = init.critical(architecture="tanh_rnn", bias_variance=0.02, input_variance=0.03)
    assert float(found.weight_variance) == pytest.approx(1.7609546, abs=5e-8)
    assert float(found.bias_variance) == pytest.approx(0.02)


def test_a_residual_network_stays_below_e():
    found = init.critical("relu", architecture="residual", depth=50)
    assert float(found.branch_scale) == pytest.approx(50**-0.5)
    grown = mean_field.residual_growth("relu", 50, weight_variance=found.weight_variance,
                                       branch_scale=found.branch_scale, form="weights_last")  # fmt: skip
    assert float(grown.log_chi[-1]) == pytest.approx(50 * np.log1p(1 / 50), abs=1e-12)


def test_a_gru_asks_the_recurrent_theory():
    gru = init.critical(architecture="gru", gate_bias=1.0, input_variance=0.5)
    assert float(recurrent.gru(gru.weight_variance, update_bias=1.0, input_variance=0.5).chi) == pytest.approx(
        1, abs=1e-6
    )


@pytest.mark.slow
def test_an_lstm_asks_the_recurrent_theory():
    lstm = init.critical(architecture="lstm", gate_bias=1.0)
    assert float(lstm.weight_variance) == float(recurrent.lstm_critical(forget_bias=1.0).weight_variance)
    assert lstm.q_star is None


def test_jit_and_grad():
    ask = lambda b: init.critical("tanh", bias_variance=b).weight_variance
    step = 1e-5
    slope = (ask(0.05 + step) - ask(0.05 - step)) / (2 * step)
    assert float(jax.jit(jax.grad(ask))(0.05)) == pytest.approx(float(slope), rel=1e-7)
    assert bool(jnp.isnan(jax.jit(ask)(-1.0)))


def test_where_there_is_no_critical_point():
    found = init.critical("relu", bias_variance=0.1)
    assert not bool(found.converged)
    assert bool(jnp.isnan(found.weight_variance))


@pytest.mark.parametrize(
    ("options", "kind", "pattern"),
    [
        ({"architecture": "gruu"}, ValueError, "'architecture' is unknown.*mean 'gru'"),
        (
            {"bias_variance": -1.0},
            ValueError,
            "'bias_variance' is outside the domain; got -1.0, expected bias_variance >= 0",
        ),
        ({"depth": 3}, ValueError, "'depth' does not belong to architecture 'plain'"),
        ({"gate_bias": 1.0, "architecture": "tanh_rnn"}, ValueError, "'gate_bias' does not belong"),
        ({"architecture": "residual"}, TypeError, "'depth' must be an integer; got None"),
        ({"architecture": "lstm", "activation": "relu"}, ValueError, "'activation' is not that of a gated cell"),
        ({"activation": "tahn"}, ValueError, "'activation' is unknown.*mean 'tanh'"),
    ],
)
def test_bad_input_is_refused(options, kind, pattern):
    with pytest.raises(kind, match=pattern):
        init.critical(**options)
