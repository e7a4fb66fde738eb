# syntax=docker/dockerfile:1.7
# The image of Finback, and beside it that of the compose example's stand-in services and callers:
#
#   docker build -t finback .
#   docker build -t finback-demo --target demo .
#   docker build -o . --target symbols .      (finback.debug, for gdb and perf)

FROM rust:1.92.0-slim-bookworm AS tools
# The toolchain that is here, whatever rust-toolchain.toml says to developers.
ENV RUSTUP_TOOLCHAIN=1.92.0
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      g++ make pkg-config libssl-dev protobuf-compiler libprotobuf-dev binutils \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source

# Manifests and empty sources: what comes of them is the same until a manifest changes.
FROM tools AS skeleton
COPY . .
RUN scripts/skeleton.sh /source /skeleton

# Dependencies, in a layer of their own.
FROM tools AS dependencies
COPY --from=skeleton /skeleton .
RUN cargo build --release --locked -p finback -p finback-simulations --bins

FROM dependencies AS build
COPY . .
# Cargo goes by time, and the empty sources are younger than these.
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
 && cargo build --release --locked -p finback -p finback-simulations --bins \
 && mkdir /out \
 && cp target/release/finback target/release/finback-sim /out/ \
 && objcopy --only-keep-debug /out/finback /out/finback.debug \
 && strip /out/finback /out/finback-sim \
 && objcopy --add-gnu-debuglink=/out/finback.debug /out/finback

FROM scratch AS symbols
COPY --from=build /out/finback.debug /

FROM debian:bookworm-20250908-slim AS system
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/*
# A number: Kubernetes cannot tell of a name that it is not root's.
USER 65532:65532

# Stand-in services and callers of the compose example. They belong into no production.
FROM system AS demo
COPY --from=build /out/finback-sim /usr/local/bin/
ENTRYPOINT ["finback-sim"]

FROM system AS finback
LABEL org.opencontainers.image.title="Finback" \
      org.opencontainers.image.description="A multi-protocol mesh proxy for RPC and messaging" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/finback /usr/local/bin/
COPY deploy/image/finback.yaml /etc/finback/finback.yaml
# Calls in the default configuration; health and metrics.
EXPOSE 12220 9902
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["finback", "health", "-c", "/etc/finback/finback.yaml"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["finback"]
CMD ["run", "-c", "/etc/finback/finback.yaml"]
