# Everything from a fresh clone, given Python 3.10 or newer, a C++17 compiler and make; all of it lands in .venv.
# On Linux outside CI, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves the tests a 2 GB CUDA build of torch.

PYTHON ?= python3
BIN := .venv/bin
CPP := $(shell find csrc -name '*.cc' -o -name '*.h')
# Two processes, a file of tests at a time: most tests keep one core busy. make test PARALLEL= runs them in one.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE $(CPP) $(shell find src models -type f -not -name '*.pyc' -not -path '*/.*')

.PHONY: run test test-full test-peers test-neon lint format clean

run: .venv/installed
	$(BIN)/linnet run tiny "What is 17 + 25?"

test: .venv/installed-test
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not peers"

test-full: .venv/installed-test
	$(BIN)/python -m pytest $(PARALLEL) -m "not peers"

# Builds llama-cpp-python the first time: about 12 minutes on two cores.
test-peers: .venv/installed-test
	$(BIN)/python .ci/requirements.py peers > .venv/requirements-peers.txt
	$(BIN)/python -m pip install --quiet -r .venv/requirements-peers.txt
	$(BIN)/python -m pytest -m peers tests/peers

# The NEON kernels, cross-compiled and run by an emulator. On Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user
test-neon: .venv/installed-test
	@command -v aarch64-linux-gnu-g++ qemu-aarch64 || { echo "apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
	$(BIN)/python -m pytest tests/ops/test_kernel_driver.py -k neon

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks models/tiny tests/models tests/peers
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/lint-imports

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf .venv build dist

.venv/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Linnet needs Python 3.10 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# Compiled once: what is installed here, and what CI gives to a user without a compiler.
dist/built: .venv/pyvenv.cfg $(SOURCES)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	touch $@

.venv/installed: dist/built
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps dist/linnet-*.whl
	$(BIN)/python -m pip install --quiet dist/linnet-*.whl
	touch $@

# Apart, so that `make -j2` fetches them while the core is compiled.
.venv/test-packages: .venv/pyvenv.cfg pyproject.toml
	$(BIN)/python .ci/requirements.py test > .venv/requirements-test.txt
	$(BIN)/python -m pip install --quiet -r .venv/requirements-test.txt
	touch $@

.venv/installed-test: dist/built .venv/test-packages
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps dist/linnet-*.whl
	touch $@ .venv/installed
