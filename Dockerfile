# The finback binary, and the stand-in services and load of the demo beside it.
FROM rust:1-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends libssl-dev pkg-config protobuf-compiler libprotobuf-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p finback -p finback-simulations --bins

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system finback
COPY --from=build /source/target/release/finback /source/target/release/finback-sim /usr/local/bin/
USER finback
ENTRYPOINT ["finback"]
CMD ["run", "-c", "/etc/finback/finback.yaml"]
