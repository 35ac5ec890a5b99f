# On a fresh machine: `make demo`, `make test`, `make docs`. Everything they need goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip compiles with one core; then all cores do, whatever of it is Python of this version.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

# Tests that load other runtimes have processes of their own: each brings threads of its own, which
# do not all outlive a fork or another's.
RUNTIMES := $(addprefix tests/test_,$(addsuffix .py,delivered executorch litert ncnn onnx_int8 openvino quiet vela))

.PHONY: demo test lint docs clean

demo: $(VENV)/.demo
	$(BIN)/onceforall demo

# A test a core; threads that share one wait for each other.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(addprefix --ignore=,$(RUNTIMES))
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(RUNTIMES)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of docs/, in site/. Its reference pages are made from the code first.
docs: $(VENV)/.docs
	$(BIN)/python docs/reference.py
	$(BIN)/zensical build --clean --strict
	$(BIN)/python docs/elsewhere.py site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onceforall needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(INSTALL) --editable '.[plot]'
	$(COMPILE)
	touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(INSTALL) --editable '.[docs]'
	$(COMPILE)
	touch $@

# PyPI's `ofa`, the authors' code, is what our networks and search are compared with; of its own
# requirements only tqdm is needed for that.
$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps ofa tqdm
	$(COMPILE)
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build site docs/reference *.egg-info
