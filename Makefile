# Two commands on a fresh machine: `make quickstart` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart
TESTS ?= tests
PAGES := terms reference from-open-clip tasks
GPU_PYTHON ?= 3.12
OPEN_CLIP ?= git+https://github.com/mlfoundations/open_clip

.PHONY: quickstart test test-slow test-all golden mutants open-clip pages check-pages site lint types smoke gpu-wheels clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

quickstart: .venv/ready  ## train on the shipped pairs, evaluate, report and export
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	  -m vlp.train --config recipes/quickstart.yaml --resume
	$(BIN)/vlp eval $(RUN)
	$(BIN)/vlp report $(RUN)
	rm -rf exports/quickstart
	$(BIN)/vlp export $(RUN) --to exports/quickstart

smoke: .venv/ready  ## the same way in a minute, with towers that both libraries load
	$(BIN)/vlp train recipes/smoke.yaml --resume
	$(BIN)/vlp report runs/smoke
	rm -rf exports/smoke
	$(BIN)/vlp export runs/smoke --to exports/smoke

test: .venv/ready  ## all tests that are not slow: minutes
	$(BIN)/pytest -n 2 --dist worksteal -m "not long and not slow" $(TESTS)

test-slow: .venv/ready  ## those that tests/slow.txt lists: launchers, processes that are killed, whole runs
	$(BIN)/pytest -n 3 --dist worksteal -m "slow and not long" $(TESTS)

test-all: .venv/ready  ## all tests, those of campaigns and of the tutorial too
	$(BIN)/pytest -n 2 --dist worksteal $(TESTS)

golden: .venv/ready  ## compute the golden losses anew, after a wanted change of numerics
	$(BIN)/python -m tests.golden

mutants: .venv/ready  ## put small faults into the source: which of them does no test notice?
	$(BIN)/python -m benchmarks.mutants

open-clip: .venv/ready  ## the tests that meet open_clip, with its main branch or OPEN_CLIP=open_clip_torch==3.3.0
	rm -rf .venv-open-clip
	$(BIN)/pip install --quiet --no-deps --target .venv-open-clip '$(OPEN_CLIP)'
	PYTHONPATH=.venv-open-clip $(BIN)/python -c 'from vlp.ground.provenance import versions; print(versions()["open_clip_torch"])'
	PYTHONPATH=.venv-open-clip $(BIN)/pytest -n 2 --dist worksteal tests/towers tests/export tests/evaluators \
	  tests/strategies tests/benchmarks/test_benchmarks.py tests/benchmarks/test_bench_step.py tests/test_train.py tests/test_golden.py

pages: .venv/ready  ## write what is generated in docs/ anew: parts, tasks, imports, snippets, reports
	for page in $(PAGES); do $(BIN)/vlp describe --page $$page > docs/$$page.md; done
	$(BIN)/python -m docs.tools.pages

check-pages: .venv/ready  ## whether it is up to date
	for page in $(PAGES); do $(BIN)/vlp describe --page $$page | diff -u docs/$$page.md - || exit 1; done
	$(BIN)/python -m docs.tools.pages --check

site: .venv/ready  ## the documentation as a site, in build/site; warnings and links that lead nowhere are errors
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --fresh-env -c docs -d build/doctrees . build/site

lint: .venv/ready  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready  ## types
	$(BIN)/mypy

gpu-wheels: .venv/ready  ## packages for benchmarks/gpu_check.py on a machine without a network (GPU_PYTHON=3.12)
	$(BIN)/python -m benchmarks.gpu.wheels --to wheels --python $(GPU_PYTHON)

clean:  ## remove the environment, runs and exports
	rm -rf .venv runs exports
