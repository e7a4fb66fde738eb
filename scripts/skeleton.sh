#!/bin/sh
# Copies manifests and empty sources of the workspace: scripts/skeleton.sh FROM TO. What an image builds of that is
# dependencies only, and stays as it is until a manifest changes.
set -eu
from=$1
to=$2

cd "$from"
find . \( -name target -o -name .git -o -name peers \) -prune -o \
    \( -name Cargo.toml -o -name Cargo.lock -o -name clippy.toml \) -print |
    while read -r file; do
        mkdir -p "$to/$(dirname "$file")"
        cp "$file" "$to/$file"
    done
# Every target that cargo would find by its place needs a source to be there.
find . \( -name target -o -name .git -o -name peers \) -prune -o -path '*/src/lib.rs' -print |
    while read -r file; do
        mkdir -p "$to/$(dirname "$file")"
        : >"$to/$file"
    done
find . \( -name target -o -name .git -o -name peers \) -prune -o \
    \( -path '*/src/main.rs' -o -path '*/src/bin/*.rs' -o -path '*/fuzz_targets/*.rs' \) -print |
    while read -r file; do
        mkdir -p "$to/$(dirname "$file")"
        echo 'fn main() {}' >"$to/$file"
    done
