#!/usr/bin/env bash
# Runs each fuzz target for some seconds (10 if not told): scripts/fuzz.sh [SECONDS [TARGET...]]. Stable Rust does:
# libFuzzer asks for coverage counters only, and panics are what is looked for. What a target has found so far stays in
# simulations/fuzz/corpus; an input that fails is kept in simulations/fuzz/artifacts, and run again by
# target/fuzz/.../TARGET FILE.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
shift || true
fuzz=simulations/fuzz
platform=$(rustc -vV | sed -n 's/^host: //p')
# The flags that rustc has for LLVM's coverage pass; their names are LLVM's (SanitizerCoverage).
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions=on -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# With a platform named, build scripts and macros are left without counters, which only libFuzzer provides.
cargo build --manifest-path "$fuzz/Cargo.toml" --target-dir target/fuzz --target "$platform" --bins

targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
  for source in "$fuzz"/fuzz_targets/*.rs; do
    targets+=("$(basename "$source" .rs)")
  done
fi
for target in "${targets[@]}"; do
  mkdir -p "$fuzz/corpus/$target" "$fuzz/artifacts/$target"
  echo "fuzzing $target for $seconds s"
  log=$(mktemp)
  if ! "target/fuzz/$platform/debug/$target" "$fuzz/corpus/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -artifact_prefix="$fuzz/artifacts/$target/" -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
    cat "$log"
    echo "$target fails; its input is in $fuzz/artifacts/$target"
    exit 1
  fi
  sed -n 's/^stat::number_of_executed_units: */  inputs run: /p' "$log"
  rm -f "$log"
done
