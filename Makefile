# One word runs everything; `.venv` is made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format bench clean

# pip is pinned to nothing: the ranges in setup.py are the contract.
.venv/demo.stamp: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test.stamp: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/demo.stamp

# Labels the shipped sample images with the embedded model; out/report.html shows the result.
demo: .venv/demo.stamp
	$(BIN)/beamclip label --input clip_transforms/samples --prompts samples --output out --overwrite

test: .venv/test.stamp
	$(BIN)/python -m pytest $(TESTS)

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/test.stamp
	$(BIN)/python -m benchmarks.pipeline

clean:
	rm -rf .venv out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
