# Every target sets up what it needs; a second run finds it there. PYTHON is only used to make .venv.
ifeq ($(strip $(PYTHON)),)
override PYTHON := $(shell command -v python3.11 || echo python3)
endif
BIN := .venv/bin
DEMO := demo-out
# Tests in as many processes as there are cores, at most 4 (about 1.5 GB each); `make test PARALLEL=` for one.
PARALLEL ?= -n auto --maxprocesses 4 --dist worksteal
.DEFAULT_GOAL := help
# Where this is set (container images do), every process would compile all of densecli and of the tests once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all lint bench clean

help:
	@echo "make demo   set up, then segment a real photo with the bundled starter"
	@echo "make test   set up, then run the tests (test-all: the slow ones too)"
	@echo "make lint   ruff and mypy    make bench  benchmarks    make clean  remove everything made here"

setup: .venv/.ready

# torch first: sam2's own build would otherwise fetch a second one; SAM2_BUILD_CUDA=0 because no CUDA extension is needed.
.venv/.ready: pyproject.toml
# A .venv without pip is one that was not finished: Ctrl-C, or a Debian without python3-venv.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "setting up .venv (a few minutes the first time: PyTorch is large)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check "setuptools>=61" wheel hatchling editables "torch>=2.5.1" "torchvision>=0.20.1" numpy
	@SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation "sam2>=1.1.0"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[dev]"
	@touch $@

demo: setup
	@$(BIN)/python -c "import skimage.data, PIL.Image, pathlib; d = pathlib.Path('$(DEMO)'); d.mkdir(exist_ok=True); PIL.Image.fromarray(skimage.data.coffee()).save(d / 'coffee.png')"
	@$(BIN)/densecli segment $(DEMO)/coffee.png --model starter --output-dir $(DEMO)
	@echo
	@echo "Look at $(DEMO)/coffee_overlay.png (the photo with its masks) and $(DEMO)/coffee_masks.json (masks and scores)."

test: setup
	@$(BIN)/python -m pytest -m "not slow and not soak" $(PARALLEL)

test-all: setup
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@cd benchmarks && ../$(BIN)/mypy --config-file ../pyproject.toml --explicit-package-bases .

bench: setup
	@$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv $(DEMO) densecli-out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
