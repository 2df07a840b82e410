"""What a model, a regularizer and a probe of the user's must have for `jacspec.training.fit` and the probes.

A task is a `jacspec.tasks.Task`, made with a `draw` of the user's where none of the package's will do.
"""

from typing import Any, Protocol

from jax import Array

from jacspec.chain import JacobianChain
from jacspec.tasks import Batch
from jacspec.typing import State


class Model(Protocol):
    """What is trained: a `flax.nnx.Module` whose parameters are `nnx.Param`.

    What else it holds, such as running statistics or random streams, is carried from update to update. It is judged after
    `nnx.Module.eval`. A module that maps single sequences, or takes them in another form, brings ``answers`` of the same
    signature, which is then called instead.
    """

    def __call__(self, inputs: Array, /) -> Array:
        """(batch, T, features) -> (batch, T, outputs), or (batch, outputs) where it answers once, at the end."""
        ...


class ChainModel(Model, Protocol):
    """What `SpectrumProbe` and `GradientProbe` need besides; any object may have it, in any training loop.

    Further members are used where a model has them: ``entry(x)``, one example of a task in the form that ``chain`` takes (as
    it is, where missing); ``joint``, True while the examples of a batch act on one another, so that the batch is one state
    (False). By one of two methods a model says what the states of its chain are, and that they lead to its outputs; the trace
    of an explosion then looks at them, too: ``layer_states(h)`` over time, the states of the layers in a state of the chain,
    lowest first; ``hidden_chain(chain)`` over depth, the part between the first layer and the readout, which the probes then ask.
    """

    def chain(self, inputs: Array, /) -> JacobianChain:
        """The chain of one example, (T, features) of a task: as a rule `jacspec.jacobian_chain` or `layer_chain`.

        Over depth it ends with the outputs. Keywords ``**options``, if it takes them, are those of these functions.
        """
        ...


class ReadModel(ChainModel, Protocol):
    """The same over time, where the outputs are read from the states h_1 ... h_T of the chain."""

    def read(self, h: State, /) -> Array:
        """h_t -> y_t, (outputs,)."""
        ...


class ActiveModel(Model, Protocol):
    """What `ActivityProbe` needs of a model."""

    def activity(self, inputs: Array, /) -> list[dict[str, Array]]:
        """For every layer ``{"slope": f'(a)}`` or its gates by name, (..., n) each, at one example of a task."""
        ...


class Regularizer(Protocol):
    """What is added to the loss."""

    def __call__(self, model: Any, batch: Batch, /) -> Array | float:
        """A real scalar."""
        ...


class Probe(Protocol):
    """What is measured of the model at every record."""

    def __call__(self, model: Any, batch: Batch, /) -> dict[str, Any]:
        """Real arrays or numbers by name, of shapes that do not change."""
        ...
