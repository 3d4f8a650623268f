# What can be made here. `make` alone lists it.

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

collection: ## build the modules for use in place (ANSIBLE_COLLECTIONS_PATH=.dev)
	@cargo xtask collection

docs: ## write the modules' documentation from their option specs
	@cargo xtask docs

dist: ## both architectures, and the archive to install, under target/dist
	@cargo xtask dist

changelog: ## move the changelog's fragments into the entry of the version in galaxy.yml
	@PATH="$$(tests/lab/lab get linters)/bin:$$PATH" antsibull-changelog release --reload-plugins --update-existing
	@rm -f collection/changelogs/.plugin-cache.yaml

test: ## everything that must hold; says first what it would install
	@python3 tests/run.py

test-changed: ## what differs from the main branch touches, in at most five minutes
	@python3 tests/run.py --changed

test-long: ## the same, wider: every ansible-core in full, long fuzzing
	@python3 tests/run.py --long

demo: ## a shop is deployed, broken and taken back while it is used (KEEP=1 leaves it up)
	@tests/demo

bench: ## how fast tasks, flips, the ledger, releases, snapshots, backups and whole deploys are, against the other ways
	@for each in fast_path color_switch deploy_ledger release_artifact zfs_pre_deploy compose_backup flows in_place hosts; do \
	  "$$(tests/lab/lab get pytest)/bin/python" tests/bench/bench_$$each.py || failed=1; done; exit $${failed:-0}

clean: ## remove what was built (the lab's cache is kept)
	@cargo clean --quiet
	@rm -rf collection/plugins/plugin_utils/bin target

.PHONY: help collection docs dist changelog test test-changed test-long demo bench clean
