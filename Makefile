# What a developer types. Each target does its own set-up on a Debian with Rust.

.PHONY: demo test sweep fuzz packages peers optimized check deny

# A first build is done sooner without what only a second one uses; cargo typed by hand has it.
export CARGO_INCREMENTAL ?= 0

# The mesh at work: stand-in services, callers and the proxy in one process. DEMO takes options, such as --once.
demo: packages
	cargo run -- demo $(DEMO)

# Half of what tests do is wait for servers and clients: two at once for each core keep it busy.
threads = $(or $(RUST_TEST_THREADS),$(shell echo $$(($$(nproc) * 2))))

# Every test: units, laws, properties, 320 simulated worlds, and end to end with third-party clients and servers.
test: packages peers
	RUST_TEST_THREADS=$(threads) cargo test

# Simulated worlds, new ones each time, for five minutes; SWEEP takes options, such as --from 7 --seeds 1.
sweep: packages
	cargo run --profile quick -p finback-simulations --bin finback-sim -- sweep $(or $(SWEEP),--from $$(date +%s) --seconds 300)

# Any bytes into every decoder, each for SECONDS; TARGET may name some.
fuzz: packages
	scripts/fuzz.sh $(or $(SECONDS),10) $(TARGET)

# What the build needs beyond Rust.
packages:
	scripts/build-packages.sh

# The third-party clients and servers that the end-to-end tests run.
peers:
	scripts/peers.sh

# The fastest program: built to count what it runs through, run under load, and built again, laid out by these counts.
optimized: packages
	scripts/optimized.sh

# What CI asks for besides the tests.
check: packages
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

# Licences, known vulnerabilities and duplicates of dependencies: cargo install --locked cargo-deny
deny:
	cargo deny check
