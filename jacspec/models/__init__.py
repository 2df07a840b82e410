"""Flax NNX models that hold parameters and build the package's cells and layers from them on every call."""

from jacspec.models.convolutional import Convolutional as Convolutional
from jacspec.models.deep import Deep as Deep
from jacspec.models.recurrent import Recurrent as Recurrent
