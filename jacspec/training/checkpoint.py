"""Checkpoints of a training, by Orbax, and the fingerprint that tells a rerun of the same training from another one.

Two functions cannot be compared, but what they compute can: the fingerprint of an optimizer, a regularizer or a probe is
a hash of its traced program, constants included.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jacspec import results
from jacspec._ground import checks, files
from jacspec.tasks import Task
from jacspec.training import reading
from jacspec.training._loop import Program, State

Records = list[list[dict[str, np.ndarray]]]
"""For every seed the records so far."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The address of a function in a printed program, which differs from run to run."""


def fingerprint(
    program: Program, state: State, states: State, keys: Any, task: Task, config: dict[str, Any]
) -> dict[str, str]:
    """What must not change between the parts of a training, by the name of the argument: short texts and hashes."""
    batch = task.sample(keys[0], program.options.batch)
    merge = lambda p, r: nnx.merge(program.graph, p, r, copy=True)
    variables = state.parameters, state.rest
    traced: dict[str, tuple[Callable, Any]] = {
        "model": (lambda p, r, b: reading.outputs(merge(p, r), b.inputs), (*variables, batch)),
        "task": (lambda key: (task.sample(key, 1), task.evaluation(key, 1)), (keys[0],)),
        "optimizer": (lambda s, b: program.guarded_update(s, task, b, s.recent[0], s.parameters), (state, batch)),
    }
    if program.options.regularizer is not None:
        regularizer = program.options.regularizer
        traced["regularizer"] = (lambda p, r, b: regularizer(merge(p, r), b), (*variables, batch))
    traced["probes"] = (
        lambda p, r, b: [probe(merge(p, r), b) for probe in program.options.probes],
        (*variables, batch),
    )
    marks = {name: str(value) for name, value in config.items()}
    marks |= {name: _program_hash(f, *arguments) for name, (f, arguments) in traced.items()}
    marks["regularizer"] = marks.get("regularizer", "none")
    marks["model"] += " " + digest((states.parameters, states.rest))
    marks["task"] = f"{config['task']} {marks['task']} {digest(task.data)}"
    marks["versions and device"] = json.dumps(results.environment(), sort_keys=True)
    return marks


def digest(tree: Any) -> str:
    """A hash of the arrays of a tree."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(_without_keys(leaf))
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def _program_hash(f: Callable, *arguments: Any) -> str:
    """A hash of the program that `f` computes at these arguments."""
    closed = jax.make_jaxpr(f)(*arguments)
    text = ADDRESS.sub("", str(closed.jaxpr))
    return hashlib.sha256(text.encode()).hexdigest()[:16] + digest(closed.consts)


def _without_keys(leaf: Any) -> Any:
    """A random key as the numbers that it is made of; anything else as it is."""
    is_key = jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


class Checkpoint:
    """The newest state of a training in a directory, and the records before it.

    Args:
        name: the public function that is called, for messages.
        folder: the directory; made if it is missing.
        marks: the `fingerprint`.

    Raises:
        ValueError: if the directory holds a checkpoint of other arguments, a damaged one, or other files.
    """

    def __init__(self, name: str, folder: str | os.PathLike, marks: dict[str, str]):
        self.name, self.folder, self.marks = name, Path(folder).absolute(), marks
        manifest = self.folder / "fit.json"
        if manifest.is_file():
            with self._damage_reported():
                old = json.loads(manifest.read_text("utf-8"))
                if not isinstance(old, dict):
                    raise TypeError(type(old))
            if differ := sorted(k for k in {*old, *marks} if old.get(k) != marks.get(k)):
                hint = "Use another directory, or the same arguments."
                got = f"{', '.join(differ)} differ in {self.folder}"
                raise ValueError(checks.message(name, "checkpoint", "is of other arguments", got, hint=hint))
        elif (self.folder / "states").is_dir():
            with self._damage_reported():
                raise FileNotFoundError(manifest)
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            got = str(self.folder)
            raise ValueError(checks.message(name, "checkpoint", "holds other files", got, "an empty directory"))
        else:
            files.write((manifest, json.dumps(marks, indent=2).encode()))
        import orbax.checkpoint as ocp  # takes a second

        self._save, self._restore = ocp.args.StandardSave, ocp.args.StandardRestore
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        with self._damage_reported():
            self.manager = ocp.CheckpointManager(self.folder / "states", options=options)

    def save(self, done: int, states: State, records: Records) -> None:
        """Write what has been reached after `done` updates; the one before it stays until this one is whole."""
        leaves = {f"{i:05d}": np.asarray(_without_keys(leaf)) for i, leaf in enumerate(jax.tree.leaves(states))}
        table = {
            str(i): {name: np.stack([r[name] for r in rows]) for name in rows[0]} for i, rows in enumerate(records)
        }
        tree = {"states": leaves, "records": table}
        self.manager.save(done, args=self._save(tree | {"digest": self._seal(done, tree)}))

    def restore(self, template: State) -> tuple[int, State, Records] | None:
        """(updates, states, records) of the newest checkpoint, or None if there is none yet.

        Args:
            template: states of the same structure.

        Raises:
            ValueError: if it is damaged.
        """
        with self._damage_reported():
            done = self.manager.latest_step()
            if done is None:
                if any(path.is_file() for path in (self.folder / "states").rglob("*")):
                    raise FileNotFoundError(self.folder / "states")
                return None
            tree: dict[str, Any] = dict(self.manager.restore(done, args=self._restore()))
            seal = np.asarray(tree.pop("digest"))
            if not np.array_equal(seal, self._seal(done, tree)):
                raise ValueError(seal)
            leaves, structure = jax.tree.flatten(template)
            found = [_restored(leaf, tree["states"][f"{i:05d}"]) for i, leaf in enumerate(leaves)]
            tables = [tree["records"][str(i)] for i in range(len(tree["records"]))]
            rows = [
                [{k: np.asarray(v[t]) for k, v in table.items()} for t in range(len(table["update"]))]
                for table in tables
            ]
            return done, jax.tree.unflatten(structure, found), rows

    @contextlib.contextmanager
    def _damage_reported(self) -> Iterator[None]:
        """Read stored files inside: any failure is reported as damage to them.

        Raises:
            ValueError: that the checkpoint is damaged.
        """
        try:
            yield
        except Exception as error:
            got, hint = str(self.folder), "Remove the directory and start again."
            raise ValueError(checks.message(self.name, "checkpoint", "is damaged", got, hint=hint)) from error

    def _seal(self, done: int, tree: Any) -> np.ndarray:
        """A hash of a state, its records and the arguments of the training, as bytes."""
        text = json.dumps([done, digest(tree), self.marks], sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)

    def close(self) -> None:
        """Close the directory."""
        self.manager.close()


def _restored(leaf: Any, numbers: Any) -> Any:
    """Stored numbers as an array, or as keys, like this leaf."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(numbers), impl=jax.random.key_impl(leaf))
    return jnp.asarray(numbers, leaf.dtype)
