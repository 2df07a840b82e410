"""Questions put to a chain: singular values, Lyapunov exponents, gradients of states and of parameters."""
