# A fresh machine with Python >= 3.11 and pip needs `make demo` or `make test`, nothing before.
PYTHON ?= python3
BIN = .venv/bin
TORCH ?= torch

.PHONY: demo test check check-kernels test-gpu gpu test-torch bench docs clean

demo: .venv/ready                ## the main job on real data, with a table and a picture at the end
	$(BIN)/python -m benchmarks.demo

test: .venv/ready                ## all tests that need no GPU, scikit-learn's and python-picard's own among them
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m tests.run_sklearn
	$(BIN)/python -m tests.run_picard

check: .venv/ready               ## linter, formatter, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-kernels: .venv/cuda-check  ## compiles every CUDA kernel for sm_80 and sm_90, without a GPU; fails on spills
	$(BIN)/python -m tests.compile_kernels

test-gpu:                        ## tests that need a GPU; uses the Python that has CuPy: make test-gpu GPU_PYTHON=python
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m pytest -m gpu -rs -p no:cacheprovider

gpu:                             ## tests that need a GPU, then what it measures; under eight minutes: make gpu GPU_PYTHON=python
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu --tests --seconds 450

test-torch: .venv/ready          ## tests that need torch, which this installs: make test-torch TORCH=torch==2.13.0
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/python -m pytest -m torch

bench: .venv/ready               ## the quick benchmarks, under three minutes; all of them: python -m benchmarks.run
	$(BIN)/python -m benchmarks.run --quick

docs: .venv/ready
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist *.egg-info demo.png site

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

.venv/cuda-check: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check -e '.[cuda-check]'
	touch $@
