"""XLA_FLAGS of the quick tests, which spend most of their time compiling; `python tests/compiler.py` prints them.

No optimizations of LLVM, no fusion emitters, one core for each compilation.
"""

from importlib import metadata

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # from 0.11 on an unknown flag, which ends the process

if __name__ == "__main__":
    print(FLAGS)
