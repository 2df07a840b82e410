"""Any network as chains: over depth between the frontiers of its dataflow graph, over time along its scans."""

from jacspec.networks.anatomy import Anatomy as Anatomy
from jacspec.networks.anatomy import Block as Block
from jacspec.networks.dissect import dissect as dissect
