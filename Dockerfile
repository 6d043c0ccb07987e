# The function's image: the binary alone on distroless, built with its dependencies in a layer of their own.
# `make test-image` builds it and tries it out without a container engine.
# The version is that of rust-toolchain.toml: rustup would download it otherwise, in every build.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src

# Dependencies first: this layer changes only with the manifests. Every target that a manifest names must have a file,
# so the crates get empty ones.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY function/framework/Cargo.toml function/framework/
COPY function/workflow/Cargo.toml function/workflow/
COPY function/workflow/benches/Cargo.toml function/workflow/benches/
COPY function/emulator/Cargo.toml function/emulator/
RUN for crate in function/* function/workflow/benches; do \
      mkdir $crate/src && touch $crate/src/lib.rs && echo 'fn main() {}' > $crate/src/main.rs || exit 1; \
    done \
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
