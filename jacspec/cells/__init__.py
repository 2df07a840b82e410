"""Recurrent cells: frozen pytrees of parameters, callable as steps, each with its analytic step Jacobian."""

from jacspec.cells.elman import Elman as Elman
from jacspec.cells.gru import GRU as GRU
from jacspec.cells.leaky import LeakyElman as LeakyElman
from jacspec.cells.lru import LRU as LRU
from jacspec.cells.lstm import LSTM as LSTM
from jacspec.cells.mgu import MGU as MGU
from jacspec.cells.minimal import MinimalRNN as MinimalRNN
