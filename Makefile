# `make test` installs what the tests need and runs everything; `make bench` measures.

# An ordinary user for the second half of the tests, when `make` runs as root.
TEST_USER ?= openbrain-test

.PHONY: test check fixture tests tests-as-user contract python adapters readme bench figures soak

# One OpenSandbox server for all of it; started here, it is taken down at the end.
test: check
	.ci/opensandbox run $(MAKE) fixture tests tests-as-user python
	$(MAKE) contract
	SKIP_BUILD=1 $(MAKE) adapters
	$(MAKE) readme
	@echo "make test: everything passed"

# Format, lints, documentation, licences.
check:
	.ci/install
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	clippy-driver openbrain/helper/main.rs --edition=2024 --crate-name=openbrain_helper \
		-C panic=abort --emit=metadata -o target/helper.rmeta -D warnings
	rustfmt --edition 2024 --check openbrain/helper/main.rs
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

# The server that the tests talk to, tried with the official SDK.
fixture:
	.ci/opensandbox check

# Unit, conformance, abuse, command-line, example and tidy tests, as the user who runs `make`.
tests:
	.ci/opensandbox run cargo test --workspace --locked --no-fail-fast
	cargo test -p openbrain-cli --features otlp --test otlp --locked

# The same test programs as an ordinary user, when `make` runs as root.
tests-as-user:
	.ci/opensandbox run .ci/as-user $(TEST_USER)

# What the servers promise: the OpenAPI document tried on a running server, and MCP by its official
# clients and their conformance suite.
contract:
	.ci/schemathesis
	.ci/mcp

# The Python package, its tests with every version of Python that is here, and once more as an
# ordinary user when `make` runs as root.
python:
	.ci/opensandbox run .ci/python
	.ci/python versions
	[ "$$(id -u)" != 0 ] || .ci/python as-user $(TEST_USER)

# The adapters for agent frameworks, with the real packages: a minute, most of it their installation.
adapters:
	.ci/python adapters

# The commands of the README, in a clean clone.
readme:
	.ci/readme

# Figures for docs/benchmarks.md, on an otherwise quiet machine; Docker takes part in them.
bench:
	.ci/install
	cargo build --release -p openbrain-cli
	.ci/opensandbox run .ci/beside-container $(MAKE) figures

figures:
	cargo bench -p openbrain --bench start
	cargo bench -p openbrain --bench session
	cargo bench -p openbrain --bench pool
	cargo bench -p openbrain --bench changes
	cargo bench -p openbrain --bench files
	cargo bench -p openbrain --bench scale
	cargo bench -p openbrain --bench stream
	cargo bench -p openbrain --bench opensandbox
	cargo bench -p openbrain --bench egress
	cargo bench -p openbrain-cli --bench serve
	.ci/python bench

# The long abuse tests, and 200,000 requests of rude clients.
soak:
	cargo test --release -p openbrain --test abuse soak -- --ignored --nocapture
	cargo test --release -p openbrain-cli --test rest soak -- --ignored --nocapture
