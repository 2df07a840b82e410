"""One small result, and how it is saved."""

import numpy as np

from jacspec import results

ARRAYS = {
    "curve": np.array([0.0, -np.inf, np.nan, 3e-320]),
    "names": np.array(["tanh", "relu"]),
    "table": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float64(2.5),
    "file": np.zeros((0, 3), bool),
}
CONFIG = {"n": 32, "g": 3.0, "activations": ["tanh", "relu"]}


def put(root, name="decay", arrays=ARRAYS, config=CONFIG, **options):
    return results.save(name, arrays, config, **{"seed": 7, "wall_time": 1.5, "code": "c0de", "root": root} | options)
