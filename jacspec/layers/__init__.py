"""Layers: frozen pytrees of parameters, callable as steps over depth, each with its analytic step Jacobian."""

from jacspec.layers.batch_norm import BatchNorm as BatchNorm
from jacspec.layers.conv import Conv as Conv
from jacspec.layers.cosine_norm import CosineNorm as CosineNorm
from jacspec.layers.dense import Dense as Dense
from jacspec.layers.layer_norm import LayerNorm as LayerNorm
from jacspec.layers.per_example import PerExample as PerExample
from jacspec.layers.residual import Residual as Residual
from jacspec.layers.rms_norm import RMSNorm as RMSNorm
from jacspec.layers.sequential import Sequential as Sequential
from jacspec.layers.step import LayerStep as LayerStep
from jacspec.layers.weight_norm import WeightNorm as WeightNorm
