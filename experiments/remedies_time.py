"""Fifteen remedies for vanishing and exploding gradients over time, at the same data, budget and seeds.

Temporal order and the adding problem, and digits pixel by pixel, by plain SGD at one learning rate for all. Nothing is
tuned for a row.
"""

from typing import Any

import numpy as np

import experiments
from experiments._remedies import compared

REMEDIES = [
    "none",
    "clip=norm:1",
    "clip=value:0.1",
    "clip=agc:0.1",
    "clip=zclip",
    "clip=autoclip:50",
    "clip=norm:1,omega=norm:1",
    "flossing=before:16",
    "init=orthogonal",
    "init=identity,activation=relu",
    "weight_decay=0.001",
    "leaky_elman,rate=0.2",
    "lstm,forget_bias=1",
    "gru",
    "sep_cma_es",
]
CONFIG = {
    "seed": 0,
    "remedies": REMEDIES,
    "digit_remedies": ["none", "clip=norm:1", "init=identity,activation=relu", "lstm,forget_bias=1"],
    "length": 20,
    "width": 50,
    "batch": 20,
    "learning_rate": 0.1,
    "updates": 1000,
    "digit_updates": 600,
    "seeds": 5,
}
FULL = {"length": 50, "updates": 8000, "digit_updates": 3000}
TINY = {"remedies": ["none", "clip=norm:1"], "digit_remedies": ["none"], "length": 12, "width": 4, "batch": 2,
        "updates": 4, "digit_updates": 2, "seeds": 2}  # fmt: skip
MAY_BE_NAN = ("_clip_rate", "digits_loss", "_slope_before", "_slope_after", "_exponent_before", "_exponent_after")
"""Nothing was to be clipped, training on digits exploded, or a value is not resolved."""


def run(config: dict[str, Any], progress: experiments.Progress) -> dict[str, np.ndarray]:
    """Arrays of the three comparisons, named after their tasks."""
    runs = (
        ("temporal_order", "temporal_order", config["remedies"], config["length"], config["updates"]),
        ("adding", "adding", config["remedies"], config["length"], config["updates"]),
        ("digits", "digits,order=pixel", config["digit_remedies"], None, config["digit_updates"]),
    )
    total, done, arrays = sum(len(names) for _, _, names, _, _ in runs), 0, {}
    progress("compiling", 0, total)
    shared = {key: config[key] for key in ("width", "batch", "learning_rate", "seeds")}
    shared["first_seed"] = config["seed"] * config["seeds"]
    for name, task, names, length, updates in runs:

        def say(sentence: str) -> None:
            nonlocal done
            done += 1
            progress(sentence, done, total)

        found = compared(task, names, say, length=length, updates=updates, optimizer="sgd", **shared)
        arrays |= {f"{name}_{key}": value for key, value in found.items()}
    return arrays


def main() -> None:
    """Run it alone: ``python -m experiments.remedies_time``."""
    experiments.alone("remedies_time")


if __name__ == "__main__":
    main()
