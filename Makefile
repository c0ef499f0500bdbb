# Every target but help and clean prepares .venv for itself; `make demo ONCE=1` ends after the batches and the job.

PYTHON := .venv/bin/python
READY := .venv/.batchproxy

.PHONY: help demo test check instructions bench bench-quick chaos clean

help:
	@echo "make demo          serve two example shops, send them batches and a job, and keep serving (ONCE=1: end after those)"
	@echo "make test          run all tests with coverage, on every supported Python that is present"
	@echo "make check         formatting, lint, types, and the direction of imports"
	@echo "make instructions  whether an item takes more machine instructions than accepted (needs valgrind)"
	@echo "make bench         measure everything, and write docs/performance.md from it (long; on a quiet machine)"
	@echo "make bench-quick   a look at most of it, without writing (a minute or two)"
	@echo "make chaos         kill, freeze and cut off what works on jobs, and judge by a ledger (ROUNDS=200, AT_ONCE=4; half an hour)"
	@echo "make clean         remove what these commands made"

$(READY): pyproject.toml scripts/environment
	@scripts/environment .venv dev

demo: $(READY)
	@$(PYTHON) -m examples.demo $(if $(filter-out 0,$(ONCE)),--once)

test: $(READY)
	@$(PYTHON) scripts/test.py

check: $(READY)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest --quiet tests/test_imports.py tests/test_exports.py

instructions: $(READY)
	@$(PYTHON) -m benchmarks.instructions --check

bench: $(READY)
	@$(PYTHON) -m benchmarks --write

bench-quick: $(READY)
	@$(PYTHON) -m benchmarks --quick

chaos: $(READY)
	@mkdir -p build
	@$(PYTHON) -m benchmarks.chaos --rounds $(or $(ROUNDS),200) $(AT_ONCE:%=--at-once %) --lines build/chaos.jsonl

clean:
	@scripts/clean
