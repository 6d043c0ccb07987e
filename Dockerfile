# The function's image: static enough for distroless, dependencies in a layer of their own.
FROM rust:1.95-slim-bookworm AS build
# aws-lc-rs, the TLS of Google's client library, compiles C.
RUN apt-get update && apt-get install --yes --no-install-recommends cmake g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# Dependencies first: this layer changes only with the manifests.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY function/framework/Cargo.toml function/framework/
COPY function/workflow/Cargo.toml function/workflow/
COPY function/emulator/Cargo.toml function/emulator/
RUN mkdir -p function/framework/src function/workflow/src function/emulator/src \
 && touch function/framework/src/lib.rs function/workflow/src/lib.rs function/emulator/src/lib.rs \
 && echo 'fn main() {}' | tee function/workflow/src/main.rs > function/emulator/src/main.rs \
 && cargo build --locked --release --package inline-workflow --bin function

COPY function function
# Cargo goes by modification times, and the sources may be older than the stand-ins above.
RUN find function -name '*.rs' -exec touch {} + \
 && cargo build --locked --release --package inline-workflow --bin function

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/function /function
USER nonroot
# Cloud Run sets PORT; elsewhere the function listens on 8080.
EXPOSE 8080
ENTRYPOINT ["/function"]
