PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test families campaign bench experiments reproduce evidence check clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lit-recycle needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

demo: $(VENV)/.installed  ## train, grow twice, sample: a few minutes on two CPU cores
	$(BIN)/lit-recycle fit --config configs/quickstart.yaml

test: $(VENV)/.installed-test  ## all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

families: $(VENV)/.installed-test  ## every model family of the hub against transformers, on disk and in runs; five minutes
	$(BIN)/python -m pytest tests/hub tests/training -m families --numprocesses auto

campaign: $(VENV)/.installed-test  ## kills, wrong inputs and damage, some seven hundred; five to thirty minutes on two cores
	$(BIN)/python tests/campaign/run.py

bench: $(VENV)/.installed-test  ## speed beside its rivals, one table; fifteen minutes on two cores
	$(BIN)/python benchmarks/all.py

experiments: $(VENV)/.installed  ## what has no result yet, resumable: ONLY="headline depth" WORKERS=2
	$(BIN)/python -m lit_recycle.experiments run $(ONLY) --workers $(or $(WORKERS),2)

reproduce: $(VENV)/.installed  ## an experiment made again, whether it agrees, and its page: ONLY=headline WORKERS=2
	$(if $(ONLY),,$(error say which experiment: make reproduce ONLY=headline))
	mkdir -p again && cp -n results/corpus.json again/
	$(BIN)/python -m lit_recycle.experiments run $(ONLY) --results again --work runs/again --workers $(or $(WORKERS),2)
	$(BIN)/python -m lit_recycle.experiments page --results again --docs again
	$(BIN)/python -m lit_recycle.experiments compare results again

evidence: $(VENV)/.installed  ## docs/evidence.md and its figures, from results/
	$(BIN)/python -m lit_recycle.experiments page

check: $(VENV)/.installed-test  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lit_recycle

clean:
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
