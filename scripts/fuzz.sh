#!/usr/bin/env bash
# Runs each fuzz target for some seconds (10 if not told): scripts/fuzz.sh [SECONDS [TARGET...]]. Stable Rust does:
# libFuzzer asks for coverage counters only, and panics are what is looked for. Crates of ours are counted; those that they
# are made of are the same as for tests. What a target has found so far stays in simulations/fuzz/corpus; an input that fails
# is kept in simulations/fuzz/artifacts, and run again by target/debug/TARGET FILE.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
shift || true
fuzz=simulations/fuzz
targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
  for source in "$fuzz"/fuzz_targets/*.rs; do
    targets+=("$(basename "$source" .rs)")
  done
fi
# With the program's dependencies beside: of what both are made of, nothing is built again.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/with-counters.sh cargo build -p finback -p finback-fuzz "${targets[@]/#/--bin=}"
folder=${CARGO_TARGET_DIR:-target}/debug

for target in "${targets[@]}"; do
  mkdir -p "$fuzz/corpus/$target" "$fuzz/artifacts/$target"
  echo "fuzzing $target for $seconds s"
  log=$(mktemp)
  if ! "$folder/$target" "$fuzz/corpus/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -artifact_prefix="$fuzz/artifacts/$target/" -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
    cat "$log"
    echo "$target fails; its input is in $fuzz/artifacts/$target"
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  inputs run: /p' "$log"
  rm -f "$log"
done
