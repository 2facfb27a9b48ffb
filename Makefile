# Outgate. `make run` shows it working, `make test` runs every test; `make help` lists the rest.
# Needs Rust (rustup), Python 3 and make; everything else is fetched.

SHELL := /bin/sh
.DEFAULT_GOAL := help

CARGO ?= cargo
WASM_TARGET := wasm32-wasip1
ARGUMENTS ?=

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build envoy ## The proxy with a demonstration: five exchanges, then it stays up (Ctrl-C ends it)
	@exec target/debug/outgate-demo $(ARGUMENTS)

.PHONY: test
test: build envoy ## Every test, end to end on a real Envoy
	$(CARGO) test --workspace --locked

.PHONY: test-envoy-matrix
test-envoy-matrix: build ## The tests of failed handshakes on Envoy 1.36 to 1.39
	@scripts/test-envoy-matrix

.PHONY: conformance
conformance: ## The rule language beside CEL's specification, the cel crate, cel-go and RE2, with a summary
	$(CARGO) test --locked --package outgate-policy conformance -- --test-threads=1 --nocapture

.PHONY: fuzz
fuzz: ## Random and hostile input for all that reads it, round after round (FUZZ_ROUNDS=N, FUZZ_SECONDS=N)
	@scripts/fuzz

.PHONY: bench
bench: wasm envoy ## What rules cost a request, beside Envoy's own means: target/bench/envoy.json (ARGUMENTS=--quick)
	$(CARGO) build --locked --release --package outgate-stock-filter --target $(WASM_TARGET)
	@ln -sf $(WASM_TARGET)/release/outgate_stock_filter.wasm target/stock-filter.wasm
	$(CARGO) build --locked --release --bin outgate --bin outgate-bench
	target/release/outgate-bench $(ARGUMENTS)

.PHONY: bench-path
bench-path: wasm envoy ## What the whole way through the proxy costs, beside Envoy without us: target/bench/path.json (ARGUMENTS=--quick)
	$(CARGO) build --locked --release --bin outgate --bin cert-service --bin outgate-bench-path
	target/release/outgate-bench-path $(ARGUMENTS)

.PHONY: bench-policy
bench-policy: wasm envoy ## What a large policy costs at the start, in memory, and when it is swapped: target/bench/policy.json
	$(CARGO) build --locked --release --bin outgate --bin cert-service --bin outgate-bench-policy
	target/release/outgate-bench-policy $(ARGUMENTS)

.PHONY: bench-handshake
bench-handshake: build envoy ## What explaining a failed handshake costs, side by side
	@$(CARGO) test --locked --package outgate-tests --test end_to_end -- --ignored --nocapture handshake_bench

.PHONY: build
build: wasm ## The command line, cert-service and outgate.wasm
	$(CARGO) build --workspace --locked

.PHONY: wasm
wasm: wasm-target ## outgate.wasm
	$(CARGO) build --locked --profile wasm --package outgate-filter --target $(WASM_TARGET)
	@scripts/finish-module target/$(WASM_TARGET)/wasm/outgate_filter.wasm target/outgate.wasm

.PHONY: wasm-target
wasm-target:
	@rustup target list --installed | grep -qx $(WASM_TARGET) || rustup target add $(WASM_TARGET)

.PHONY: envoy
envoy: ## An Envoy of the pinned version, as target/envoy/envoy
	@python3 scripts/fetch-envoy

.PHONY: test-leases-long
test-leases-long: build envoy ## Tests of leases that take longer: 5,000 names with a cap of 500
	$(CARGO) test --locked --package outgate-tests --test end_to_end -- --ignored --nocapture leases

.PHONY: judge-browser
judge-browser: build envoy ## Chromium before an inspected connection; installs it from Debian's packages if need be
	@command -v chromium certutil >/dev/null || apt-get install --yes --no-install-recommends chromium libnss3-tools
	$(CARGO) test --locked --package outgate-tests --test end_to_end -- --ignored --nocapture judges::chromium

.PHONY: judge-leaves
judge-leaves: ## Leaves of every kind of CA before pkilint, OpenSSL's strict rules and GnuTLS
	$(CARGO) build --locked --package cert-service
	@scripts/judge-leaves

.PHONY: test-pkcs11
test-pkcs11: ## CAs on a PKCS#11 token, where SoftHSM is installed (Debian: softhsm2)
	$(CARGO) test --locked --package cert-service --features pkcs11 --test suite -- --nocapture token

.PHONY: bench-engine
bench-engine: ## Verdicts and compilation, natively, at 10 to 10,000 rules
	$(CARGO) bench --locked --package outgate-policy --bench verdicts -- --warm-up-time 0.5 --measurement-time 1 $(ARGUMENTS)

.PHONY: bench-mint
bench-mint: ## Leaves per second, beside openssl speed and rcgen: target/bench/mint.json
	$(CARGO) bench --locked --package cert-service --bench mint

.PHONY: bench-leases
bench-leases: wasm envoy ## What a fresh inspected name costs at 100, 1,000, 10,000 names: target/bench/leases.json
	$(CARGO) build --locked --release --bin outgate --bin cert-service --bin bench-leases
	target/release/bench-leases

.PHONY: func-e
func-e: build envoy ## The demonstration's configuration under func-e
	@scripts/with-func-e

.PHONY: examples
examples: build ## Writes envoy-config/examples anew from their policies
	@scripts/render-examples

.PHONY: lint
lint: wasm-target ## Formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) clippy --package outgate-filter --target $(WASM_TARGET) --locked -- --deny warnings
