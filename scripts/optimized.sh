#!/usr/bin/env bash
# Builds the program twice: once to count what it runs through while it carries each protocol (`finback-sim compare`), then
# laid out by these counts, with what always runs together in one place. The result is target/optimized/release/finback.
# The counts hold for one compiler and one state of the sources, so they are taken anew each time and never kept.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
counts=$target/profiled/counts
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$profdata" ]; then
  command -v rustup >/dev/null 2>&1 || {
    echo "no $profdata: it comes with rustup's component llvm-tools; of another Rust, install its LLVM tools there" >&2
    exit 1
  }
  rustup component add llvm-tools
fi

# What the calls that are counted come from and go to.
missing=()
command -v haproxy >/dev/null 2>&1 || missing+=(haproxy)
command -v nginx >/dev/null 2>&1 || missing+=(nginx-light)
command -v h2load >/dev/null 2>&1 || missing+=(nghttp2-client)
command -v openssl >/dev/null 2>&1 || missing+=(openssl)
[ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
if [ "${#missing[@]}" -gt 0 ]; then
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  echo "installing ${missing[*]}"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

rm -rf "$counts"
mkdir -p "$counts"
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate=$counts" cargo build --release --locked --target-dir "$target/profiled" \
  -p finback -p finback-simulations --bins
LLVM_PROFILE_FILE="$counts/%m-%p.profraw" "$target/profiled/release/finback-sim" compare --no-envoy --rounds 1 --scale 0.1 \
  --finback "$target/profiled/release/finback"
# A file for each process that ended by itself: the program's is among them, or nothing was learned.
"$profdata" merge -o "$counts/all.profdata" "$counts"/*.profraw
"$profdata" show --topn=20 "$counts/all.profdata" | grep -q finback_core || {
  echo "the counts are not of the program at work: $counts" >&2
  exit 1
}
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-use=$counts/all.profdata" cargo build --release --locked --target-dir "$target/optimized" \
  -p finback --bin finback
echo "$target/optimized/release/finback"
