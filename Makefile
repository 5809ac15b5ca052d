# Every target creates .venv if it is missing or older than pyproject.toml or constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install train train-real test test-vllm lint check bench docs

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Train the bundled policy with IG-GRPO; ARGS="--steps 20 --seed 1" passes options.
train: $(INSTALLED)
	$(BIN)/python algorithms/ig_grpo.py $(ARGS)

# Train a real language model on real text; DATA=FOLDER names a corpus and questions, ARGS="--preset minutes" a size.
train-real: $(INSTALLED)
	$(BIN)/python examples/train_real.py $(if $(DATA),--data $(DATA)) $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto $(ARGS)

# Tests with a real vLLM, in the environment that `python -m benchmarks.vllm_environment` builds (ten minutes, once).
test-vllm: $(INSTALLED)
	$(BIN)/python -m pytest -m vllm -rs $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py $(ARGS)

# The documentation, in site/. To read it with its search: python -m http.server -d site
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
