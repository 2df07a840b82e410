"""State dicts as PyTorch names and shapes them, of random numbers."""

import itertools

import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
INPUTS, UNITS, STEPS = 3, 4, 6
KINDS = sorted(GATES)


def drawn(kind, layers=1, directions=1, *, bias=True, prefix="", seed=0):
    """A state dict as torch.nn.RNN, LSTM and GRU name and shape it."""
    rng, rows = np.random.default_rng(seed), GATES[kind] * UNITS
    state = {}
    for l in range(layers):
        for ending in ("", "_reverse")[:directions]:
            width = directions * UNITS if l else INPUTS
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, UNITS)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for name, shape in shapes.items():
                state[f"{prefix}{name}_l{l}{ending}"] = rng.normal(0, 0.6, shape)
    return state


def linear(*widths, names=None, bias=True):
    rng, state = np.random.default_rng(2), {}
    for l, (n, m) in enumerate(itertools.pairwise(widths)):
        name = str(2 * l) if names is None else names[l]
        state[f"{name}.weight"] = rng.normal(size=(m, n))
        state |= {f"{name}.bias": rng.normal(size=m)} if bias else {}
    return state
