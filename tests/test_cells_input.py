"""What the cells say when they are given something wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from jacspec import cells

W1, W3, W4, H = jnp.ones((2, 2)), jnp.ones((3, 2, 2)), jnp.ones((4, 2, 2)), jnp.ones(2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: cells.Elman([[1.0]]), TypeError, r"'W'.*array.*list"),
        (lambda: cells.Elman(jnp.ones(3)), ValueError, r"'W'.*\(3,\).*2-D"),
        (lambda: cells.Elman(jnp.ones((3, 4))), ValueError, r"'W'.*square.*\(3, 4\)"),
        (lambda: cells.Elman(jnp.ones((2, 2), int)), TypeError, r"'W'.*floating.*int"),
        (lambda: cells.Elman(np.ones((2, 2), object)), TypeError, r"'W'.*dtype object"),
        (lambda: cells.Elman(jnp.ones((0, 0))), ValueError, r"'W'.*empty"),
        (lambda: cells.LSTM(W3), ValueError, r"cells.LSTM: argument 'W' needs one matrix a gate.*\(4, n, n\)"),
        (lambda: cells.GRU(W1), ValueError, r"cells.GRU.*'W'.*3-D"),
        (lambda: cells.GRU(W3, b=jnp.ones(6)), ValueError, r"cells.GRU.*'b'.*2-D \(3, n\)"),
        (lambda: cells.GRU(W3, form="reset_befor"), ValueError, r"'form'.*Did you mean 'reset_before'"),
        (lambda: cells.GRU(W3, hidden_bias=H, form="reset_before"), ValueError, r"'hidden_bias'.*reset_after"),
        (lambda: cells.MGU(W3[:2], hidden_bias=H, reset_gate=False), ValueError, r"'hidden_bias'.*reset_gate"),
        (lambda: cells.MinimalRNN(W1, c=H), ValueError, r"'c'.*needs U"),
        (lambda: cells.LeakyElman(W1, rate=0.0), ValueError, r"'rate'.*0 < rate <= 1"),
        (lambda: cells.LeakyElman(W1, rate=jnp.ones(3)), ValueError, r"'rate'.*shape \(3,\)"),
        (lambda: cells.LeakyElman(W1, activation="rellu"), ValueError, r"'activation'.*Did you mean 'relu'"),
        (lambda: cells.LSTM(W4, gate=lambda a: a), TypeError, r"no derivative"),
        (lambda: cells.LRU(None, H), TypeError, r"'nu'.*array"),
        (lambda: cells.LRU(H, H, jnp.ones((2, 2), complex)), (TypeError, ValueError), r"'B'"),
        (lambda: cells.LSTM(W4)(H), TypeError, r"'carry'.*pair \(c, h\).*shape \(2,\).*c first"),
        (lambda: cells.LSTM(W4)([H, H]), TypeError, r"'carry'.*pair \(c, h\).*list"),
        (lambda: cells.LSTM(W4)((H, jnp.ones((3, 2)))), ValueError, r"'carry: h' is a batch.*batched.*vmap"),
        (lambda: cells.LRU(H, H)(jnp.ones(4)), TypeError, r"'carry'.*pair \(re, im\)"),
        (
            lambda: cells.LSTM(W4).four_term((H, H), previous_output_gate=jnp.ones(3)),
            ValueError,
            r"previous_output_gate",
        ),
        (lambda: cells.GRU(W3)(jnp.ones((7, 2))), ValueError, r"'h' is a batch.*\(7, 2\).*jacspec.batched or jax.vmap"),
        (lambda: cells.MGU(W3[:2])(jnp.ones(3)), ValueError, r"'h'.*\(3,\).*\(2,\)"),
        (lambda: cells.GRU(W3)(jnp.ones(2, int)), TypeError, r"'h'.*floating.*int"),
        (lambda: cells.GRU(W3, jnp.ones((3, 2, 4)))(H, jnp.ones(5)), ValueError, r"'x'.*\(5,\).*\(4,\), features"),
        (lambda: cells.GRU(W3, jnp.ones((3, 2, 4)))(H), ValueError, r"'x'.*U without x"),
        (lambda: cells.LeakyElman(W1)(H, H), ValueError, r"'x'.*x without U"),
        (lambda: cells.MinimalRNN(W1)(H, jnp.ones(3)), ValueError, r"'x'.*z itself"),
    ],
)
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
