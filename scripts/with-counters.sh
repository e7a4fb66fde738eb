#!/bin/sh
# rustc for crates of ours that are fuzzed: with LLVM's counters of coverage, which libFuzzer reads. Cargo calls it as
# RUSTC_WORKSPACE_WRAPPER, with the compiler first. The flags are rustc's for that pass; their names are LLVM's
# (SanitizerCoverage).
rustc=$1
shift
case " $* " in
*" --crate-name build_script_build "* | *" proc-macro "*)
    # They run in cargo and in the compiler, where nobody provides counters.
    exec "$rustc" "$@"
    ;;
esac
exec "$rustc" "$@" --cfg fuzzing -Cdebug-assertions=on -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
