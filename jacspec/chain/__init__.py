"""The Jacobian chain: a step, a sequence of drivers, and the ordered step Jacobians J_1 ... J_T between them."""

from jacspec.chain.build import jacobian_chain as jacobian_chain
from jacspec.chain.build import layer_chain as layer_chain
from jacspec.chain.chain import JacobianChain as JacobianChain
from jacspec.chain.compose import batched as batched
from jacspec.chain.compose import over_time as over_time
from jacspec.chain.compose import stack as stack
