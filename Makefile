# `make test` installs what the tests need and runs everything; `make bench` measures.

# An ordinary user for the second half of the tests, when `make` runs as root.
TEST_USER ?= openbrain-test

.PHONY: test check tests tests-as-user readme bench soak

test: check tests tests-as-user readme
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

# Unit, conformance, abuse, command-line, example and tidy tests, as the user who runs `make`.
tests:
	cargo test --workspace --locked --no-fail-fast

# The same test programs as an ordinary user, when `make` runs as root.
tests-as-user:
	.ci/as-user $(TEST_USER)

# The commands of the README, in a clean clone.
readme:
	.ci/readme

# Figures for docs/benchmarks.md, on an otherwise quiet machine.
bench:
	.ci/install
	cargo build --release -p openbrain-cli
	cargo bench -p openbrain --bench start
	cargo bench -p openbrain --bench scale
	cargo bench -p openbrain --bench stream
	cargo bench -p openbrain --bench egress

# The long abuse tests.
soak:
	cargo test --release -p openbrain --test abuse soak -- --ignored --nocapture
