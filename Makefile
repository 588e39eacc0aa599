# Every target makes .venv itself, when it is missing, broken, or older than the dependencies in setup.cfg.
# `make PYTHON=python3.13 …` picks the interpreter of a new one.

PYTHON ?= python3
IN_VENV = .venv/bin/python
# In the order of the alphabet the slowest files come early.
PYTEST = $(IN_VENV) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

ifneq ($(shell $(IN_VENV) -c "print('works')" 2>/dev/null),works)
$(shell rm -rf .venv)
endif

.PHONY: demo run sidecar test coverage lint translations bench chaos screenshots clean

demo: .venv/demo.stamp          ## push an image and watch webhooks, callbacks and a chain
	@$(IN_VENV) -m example_app.demo

run: .venv/demo.stamp           ## the example registry with a worker, until Ctrl-C
	@$(IN_VENV) -m example_app.demo --keep

sidecar: .venv/demo.stamp .venv/sidecar.stamp  ## webhooks beside Debian's docker-registry, until Ctrl-C
	@$(IN_VENV) -m example_app.demo.sidecar

test: .venv/test.stamp          ## all tests, against real servers
	$(PYTEST)

coverage: .venv/test.stamp      ## the same, a quarter slower, with the lines that no test runs
	$(PYTEST) --cov

lint: .venv/test.stamp          ## style, types, and what is known to be unsafe
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .
	$(IN_VENV) -m mypy
	@# B105 and B608 take every "token" and every SELECT for a fault; ruff's S105 and S608 judge these, line by line.
	$(IN_VENV) -m bandit --quiet --recursive --skip B105,B608 flask_hubhooks
	$(IN_VENV) -m pip_audit --progress-spinner off --skip-editable

translations: .venv/test.stamp  ## catalogues of the texts that the pages have now; tells what is not translated yet
	$(IN_VENV) -m tests.support.catalogues

bench: .venv/test.stamp         ## deliveries per second beside what else one could do
	$(IN_VENV) -m benchmarks

screenshots: .venv/test.stamp   ## pictures of all pages in build/screenshots, and README's in docs/images
	$(IN_VENV) -m tests.browser.screenshots

chaos: .venv/test.stamp         ## kill workers and servers under load, and count what was lost; `make chaos SEED=1` replays
	$(IN_VENV) -m tests.chaos $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .venv build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/%.stamp: setup.cfg pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "Python 3.10 or newer is needed: make PYTHON=python3.x …" >&2; exit 1; }
	@test -x $(IN_VENV) || $(PYTHON) -m venv .venv
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
