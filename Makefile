# `make figures` and `make test` each install what they need into .venv first. `make help` lists the rest.
.DEFAULT_GOAL := setup
.PHONY: setup help figures test test-slow check bench clean
.DELETE_ON_ERROR:

PYTHON  ?= python3
WORKERS ?= 2
NAME    ?=
SEED    ?=
ARGS    ?=

READY  := .venv/.ready
RUN    := .venv/bin/python

# One BLAS thread a process: LAPACK's own threads and XLA's fight for the same cores.
export OPENBLAS_NUM_THREADS ?= 1
PYTEST := $(RUN) -m pytest

setup: $(READY) help  ## Make .venv ready and show this list (plain `make`)

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo
	@echo "  NAME='a b'  only these figures         FULL=1   full-size experiments   SEED=1  another seed"
	@echo "  PYTHON=...  interpreter for .venv      WORKERS  test processes (2)      ARGS  passed on to pytest"

figures: $(READY)  ## Run missing or stale experiments, draw every figure, check the claims
	@$(RUN) -m figures $(NAME) $(if $(FULL),--full) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The quick tests spend most of their time compiling: they have flags of their own (the slow ones and the figures do not),
# and share what took long to compile, between processes and runs.
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.pytest_cache/jax
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1
test: $(READY)  ## Run the tests, without the slow ones
	@XLA_FLAGS="$$XLA_FLAGS $$($(RUN) tests/compiler.py)" $(PYTEST) -q -m "not slow" -n $(WORKERS) --dist loadgroup $(ARGS)

test-slow: $(READY)  ## Run the slow tests
	@$(PYTEST) -q -m slow -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(READY)  ## Lint, types, architecture, then the tests
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m pyright
	@$(PYTEST) -q tests/test_architecture.py
	@$(MAKE) --no-print-directory test

bench: $(READY)  ## Run the benchmarks
	@set -e; for file in benchmarks/[!_]*.py; do \
	  [ -e "$$file" ] || { echo "No benchmarks yet."; break; }; \
	  module=$${file%.py}; echo "$$file"; $(RUN) -m "benchmarks.$${module##*/}" $(ARGS); \
	done

clean:  ## Remove the environment, caches, results and drawn figures
	@rm -rf .venv build dist results figures/out .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter without ensurepip (Debian without python3-venv) still has a pip that can install into .venv.
$(READY): pyproject.toml constraints.txt
	@set -e; found=; \
	for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    found=$$python; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "jacspec needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1 | tail -n 1)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  echo "Making .venv with $$("$$found" --version) ..."; \
	  "$$found" -m venv --clear .venv >/dev/null 2>&1 \
	    || { "$$found" -m venv --clear --without-pip .venv && "$$found" -m pip --python $(RUN) install --quiet pip; }; \
	fi; \
	echo "Installing jacspec and the versions in constraints.txt (a few minutes the first time) ..."; \
	$(RUN) -m pip install -qq --disable-pip-version-check --editable '.[dev,data]' --constraint constraints.txt; \
	touch $@
