# A fresh machine with Python >= 3.11 and pip needs `make demo` or `make test`, nothing before.
PYTHON ?= python3
BIN = .venv/bin
TORCH ?= torch

.PHONY: demo test check check-kernels check-kernels-newest test-gpu sanitize-gpu bench-gpu gpu test-torch bench docs clean

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

check-kernels-newest:            ## the same with the newest NumPy and numba-cuda: make check-kernels-newest PYTHON=python3.12
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install -q --disable-pip-version-check --upgrade --upgrade-strategy eager . '.[cuda-check]'
	PYTHONPATH=. .venv-newest/bin/python -W error::DeprecationWarning -m tests.compile_kernels --all

test-gpu:                        ## tests that need a GPU, seven minutes at most: make test-gpu GPU_PYTHON=python
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu --tests --seconds 420 $(if $(OUT),--out $(OUT))

sanitize-gpu:                    ## small launches of every CUDA kernel under compute-sanitizer, one minute at most
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m tests.sanitize $(if $(OUT),--report $(OUT))

bench-gpu:                       ## figures of a GPU, seven minutes at most; to the folder OUT, else benchmarks/results
	PYTHONPATH=. $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu --seconds 420 $(if $(OUT),--out $(OUT))

gpu: test-gpu bench-gpu

test-torch: .venv/ready          ## tests that need torch, which this installs: make test-torch TORCH=torch==2.13.0
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/python -m pytest -m torch

bench: .venv/ready               ## the quick benchmarks, under three minutes; all of them: python -m benchmarks.run
	$(BIN)/python -m benchmarks.run --quick

docs: .venv/ready                ## the documentation, into docs/_build; warnings are errors, no network access
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

clean:
	rm -rf .venv .venv-newest build dist *.egg-info demo.png docs/_build docs/generated docs/auto_examples

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

.venv/cuda-check: .venv/ready
	$(BIN)/pip install -q --disable-pip-version-check -e '.[cuda-check]'
	touch $@
