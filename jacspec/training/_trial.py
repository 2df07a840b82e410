"""Task, model, optimizer and functions of the user's, called once on shapes alone, and refused before anything trains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jacspec._ground import checks
from jacspec._ground.memory import free_bytes
from jacspec.tasks import Batch, Task
from jacspec.training import reading
from jacspec.training._loop import HELD_OUT, Program, State, stream
from jacspec.training._user_code import output_shapes

MODEL = "model(inputs) -> outputs, (batch, T, features) -> (batch, T, outputs) or (batch, outputs)"
RESERVED = {"update", "loss", "metric", "rejected", "training_loss", "gradient_norm", "log_gradient_norm", "clip_rate"}
RESERVED |= {"seed", "seconds"}
"""Names in a record, which a probe may not use."""


def data(name: str, task: Task, counts: dict[str, int]) -> None:
    """Refuse a task whose batches have not the form that it declares, or do not fit into memory.

    Raises:
        ValueError: for shapes or dtypes that do not fit, or numbers of sequences, by their argument, that are too large.
    """
    T, n, form = task.length, task.outputs, "draw(data, key, count) -> Batch"
    classes = task.kind == "cross_entropy"
    want = (2, T, task.features), (2, T) if classes else (2, T, n), (2, T)
    kinds = checks.REAL, (jnp.integer,) if classes else checks.REAL, (jnp.floating,)
    for draw in (task.sample, task.evaluation):
        found = output_shapes(name, "task", form, lambda draw=draw: draw(jax.random.key(0), 2))
        if not isinstance(found, Batch):
            raise TypeError(checks.message(name, "task", "draws no Batch", type(found).__name__, form))
        for field, shape, kind, a in zip(Batch._fields, want, kinds, found, strict=True):
            if getattr(a, "shape", None) != shape or not any(jnp.issubdtype(a.dtype, k) for k in kind):
                got = f"{getattr(a, 'dtype', type(a).__name__)}{getattr(a, 'shape', '')}"
                expected = f"{' or '.join(k.__name__ for k in kind)} numbers of shape {shape}"
                raise ValueError(checks.message(name, "task", f"draws {field} of another form", got, expected))
        bytes_each = sum(a.size * a.dtype.itemsize for a in found) / 2
        for argument, count in counts.items():
            if count * bytes_each > (free := free_bytes()):
                got = f"{count} sequences, {count * bytes_each / 2**30:.3g} GiB"
                want = f"less than the free {free / 2**30:.3g} GiB"
                raise ValueError(checks.message(name, argument, "does not fit into memory", got, want))


def model(name: str, model: Any, task: Task, batch: int) -> None:
    """Refuse a model that cannot read the sequences of a task, or whose outputs do not fit its targets.

    Raises:
        TypeError: for a model that is none.
        ValueError: for features, outputs or steps that do not fit.
    """
    hint = f"Take one of jacspec.models, or a flax.nnx.Module with {MODEL}."
    checks.instance(name, "model", model, nnx.Module, hint)
    T, n = task.length, task.outputs
    dtype = jax.eval_shape(lambda: task.sample(jax.random.key(0), 1).inputs).dtype
    x = jax.ShapeDtypeStruct((batch, T, task.features), dtype)
    if hasattr(model, "entry") and hasattr(model, "features"):
        entered = jax.eval_shape(model.entry, jax.ShapeDtypeStruct(x.shape[1:], x.dtype)).shape
        if model.features != entered[-1]:
            flat = f"A deep network takes the {T} x {task.features} numbers of a sequence at once."
            got, want = f"features={model.features}", f"features={entered[-1]} of {task.name}"
            hint = flat if len(entered) == 1 else ""
            raise ValueError(checks.message(name, "model", "does not fit the task", got, want, hint))
    graph, state = nnx.split(model)
    if not jax.tree.leaves(nnx.state(model, nnx.Param)):
        want = "a flax.nnx.Module whose weights are nnx.Param"
        raise ValueError(checks.message(name, "model", "has no parameters", type(model).__name__, want))
    y = output_shapes(name, "model", MODEL, lambda s, x: reading.answers(nnx.merge(graph, s, copy=True), x), state, x)
    if not hasattr(y, "shape") or not jnp.issubdtype(y.dtype, jnp.floating):
        got = f"dtype {y.dtype}" if hasattr(y, "dtype") else type(y).__name__
        raise TypeError(checks.message(name, "model", "returns no floating array", got, MODEL))
    if y.shape not in ((batch, T, n), (batch, 1, n), (batch, n)):
        want = f"(batch, {T}, {n}) or (batch, {n}) of {task.name}"
        hint = f"Make the model with outputs={n}."
        raise ValueError(checks.message(name, "model", "does not fit the task", f"outputs {y.shape}", want, hint))
    if y.shape[1:] != (T, n) and bool(jnp.any(task.evaluation(jax.random.key(0), 1).weights[:, :-1] > 0)):
        hint = "Use a recurrent model with readout='every'."
        got, want = "one answer", f"an answer at every step that {task.name} asks for"
        raise ValueError(checks.message(name, "model", "answers only at the end", got, want, hint))


def values(name: str, program: Program, key: Any, task: Task, dtype: Any) -> None:
    """Refuse a first batch, or a held-out one, that nothing can be learned from.

    Raises:
        ValueError: for inputs that are finite and not in the dtype of the model, targets that are no class, or weights
            that are all 0. (Data that are not finite make an explosion, which is traced.)
    """
    held = task.evaluation(stream(key, HELD_OUT), program.options.held_out)
    for batch in (program.drawn(jnp.zeros((), jnp.int32), key, task), held):
        if dtype is not None and (beyond := checks.overflow(batch.inputs, dtype)) is not None:
            hint = "Scale the inputs, or make the model with a wider dtype."
            text = f"has inputs beyond {dtype}, the dtype of the model"
            raise ValueError(checks.message(name, "task", text, beyond, f"at most {jnp.finfo(dtype).max:.4g}", hint))
        classes = batch.targets[batch.weights > 0]
        if not len(classes):
            raise ValueError(checks.message(name, "task", "asks for nothing", "weights that are all 0", "some above 0"))
        if task.kind == "cross_entropy" and bool((bad := (classes < 0) | (classes >= task.outputs)).any()):
            want = f"0..{task.outputs - 1}, as it has {task.outputs} outputs"
            raise ValueError(
                checks.message(name, "task", "asks for a class that there is not", int(classes[bad][0]), want)
            )


def program(name: str, program: Program, first: tuple[Any, Any, Any], task: Task) -> None:
    """Refuse a regularizer, probes or an optimizer that cannot be part of a compiled loop.

    Args:
        name: the public function that is called, for messages.
        program: of the training.
        first: parameters, other variables and key of one seed.
        task: what is learned.

    Raises:
        TypeError: for a regularizer that returns no number, a probe that returns no dict of numbers.
        ValueError: for names that are taken, for variables or an optimizer's state that change their form.
    """
    parameters, rest, key = first
    batch = jax.eval_shape(lambda key: task.evaluation(key, program.options.batch), key)
    merged = lambda f: lambda p, r, b: f(nnx.merge(program.graph, p, r, copy=True), b)
    if program.options.regularizer is not None:
        form = "regularizer(model, batch) -> real scalar"
        out = output_shapes(name, "regularizer", form, merged(program.options.regularizer), parameters, rest, batch)
        if not checks.is_real(out) or out.shape != ():
            raise TypeError(checks.message(name, "regularizer", "returns no number", _form(out), form))
    _probes(name, [merged(probe) for probe in program.options.probes], parameters, rest, batch)
    loss_of = lambda p, r, b: program.loss(p, r, task, b)
    loss, after = output_shapes(name, "model", MODEL, loss_of, parameters, rest, batch)
    if (old := _form(rest)) != (new := _form(after)):
        hint = "Make every variable in __init__, in the form that it keeps."
        raise ValueError(checks.message(name, "model", "changes the form of its variables", new, old, hint))

    def update(p: Any, r: Any, b: Batch, loss: Any) -> Any:
        optimizer, zero = optax.with_extra_args_support(program.transformation), jnp.zeros((), jnp.int32)
        before = optimizer.init(p)
        extra = program.extra(State(p, r, before, zero, zero, zero), task, b, loss, p)
        return p, *optimizer.update(p, before, p, **extra), before

    form = "update(gradient, state, parameters), with value=, grad= and value_fn= where it takes them"
    p, updates, after, before = output_shapes(name, "optimizer", form, update, parameters, rest, batch, loss)
    of_updates, of_states = "makes updates unlike the parameters", "makes a state that changes its form"
    whole_form = lambda tree: (jax.tree.structure(tree), _form(tree))
    checked = ((of_updates, jax.tree.structure, p, updates), (of_states, whole_form, before, after))
    for problem, form_of, old, new in checked:
        if form_of(old) != form_of(new):
            raise ValueError(checks.message(name, "optimizer", problem, _form(new)[:300], _form(old)[:300]))


def _probes(name: str, probes: list[Callable], *arguments: Any) -> None:
    """Refuse a probe that returns anything but real arrays, or a name that stands in the record already."""
    taken, form = set(RESERVED), "probe(model, batch) -> dict of real arrays by name"
    for i, probe in enumerate(probes):
        argument = f"probes[{i}]"
        out = output_shapes(name, argument, form, probe, *arguments)
        if not isinstance(out, dict):
            raise TypeError(checks.message(name, argument, "returns no dict", _form(out), "dict of arrays by name"))
        for key, value in out.items():
            if not isinstance(key, str) or not checks.is_real(value):
                hint = "Take complex numbers apart; give parts of a result names of their own."
                got = f"{key!r}: {_form(value)}"
                raise TypeError(checks.message(name, argument, "returns what is no real array", got, form, hint))
        if both := taken & set(out):
            text = checks.message(name, argument, "returns a name that is taken", sorted(both), "other names")
            raise ValueError(text)
        taken |= set(out)


def _form(tree: Any) -> str:
    """The dtypes and shapes of a tree, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    text = lambda path, leaf: f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}".strip()
    return ", ".join(text(*pair) for pair in leaves) or type(tree).__name__
