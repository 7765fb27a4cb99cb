# List the development tasks
_default:
    @just --list --unsorted

# Move a throwaway homeserver into a throwaway ESS database, and report the result
demo: install-needs
    cargo test --workspace --locked --quiet --test e2e bench::demo::demo -- --exact --ignored --nocapture

# Measure the data path and its alternatives with sources of `mb` MB in two shapes; includes pgcopydb if installed
bench mb="2000" rounds="9": install-needs
    BENCH_MB={{ mb }} BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench::data_path::bench -- --exact --ignored --nocapture

# Kill the pipeline at each stage, and measure how long re-running it takes
bench-kills mb="200": install-needs
    BENCH_MB={{ mb }} cargo test --release --locked --quiet --test e2e bench_kills -- --ignored --nocapture

# Measure a complete run of preflight on a healthy small server
bench-preflight rounds="10": install-needs
    BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench_preflight -- --ignored --nocapture

# Measure the data path over a limited link, with the programs on either host; needs root, iproute2 and rsync
bench-link mb="500" mbit="200": install-needs
    BENCH_MB={{ mb }} BENCH_MBIT={{ mbit }} cargo test --release --locked --quiet --test e2e bench_link -- --ignored --nocapture

# Measure media-sync and rsync with a store of so many files and MB; needs rsync
bench-media files="20000" mb="2000" rounds="5": install-needs
    BENCH_FILES={{ files }} BENCH_MB={{ mb }} BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench_media -- --ignored --nocapture

# Inject faults at random moments of the pipeline; `just soak 1 SEED` repeats a round
soak rounds="200" seed="": install-needs
    SOAK_ROUNDS={{ rounds }} {{ if seed == "" { "" } else { "SOAK_SEED=" + seed } }} cargo test --workspace --locked --quiet --test e2e faults::soak::soak -- --exact --ignored --nocapture

# Run unit and end-to-end tests
test *args: install-needs
    cargo test --workspace --locked {{ args }}

# Run the tests of every source on its own; `just test` tries those that move together
test-sources: install-needs
    cargo test --workspace --locked --test e2e -- --include-ignored sources::

# Run the tests that need a real Kubernetes, which they start on this machine: needs root; the first build takes 12 minutes
test-cluster *args:
    @.ci/needs cluster
    cargo test --workspace --locked --test e2e -- --ignored kubernetes:: --test-threads 3 {{ args }}

# Run everything that CI runs, fastest checks first
ci: install-needs fmt-check lint man test

# Format the code
fmt:
    cargo fmt --all

# Check the formatting
fmt-check:
    cargo fmt --all --check

# Run clippy; warnings are errors
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Build the documentation of the code; warnings are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --lib --no-deps --locked --quiet

# Check the manual pages with mandoc
man:
    mandoc -T lint -W warning man/*

# Validate the emitted Helm values against a chart's values.schema.json (an absolute path)
chart-schema path:
    CHART_SCHEMA={{ path }} cargo test --locked --test e2e the_values_fit_a_chart -- --ignored

# Check licences, bans and sources; needs cargo-deny and an earlier `cargo fetch`, but no network
deny:
    cargo deny --offline check bans licenses sources

# Update generated files that are committed: the schema, the ids in preflight(1) and the snapshots; needs cargo-insta
update:
    UPDATE=1 cargo test --workspace --locked --lib -- the_schema_is_the_one_of_the_types the_page_lists_every_id
    cargo insta test --accept --workspace

# Install missing dependencies with apt; upgrades nothing
install-needs:
    @.ci/needs

# Build an image layer with the static programs; needs the target x86_64-unknown-linux-musl and musl-gcc
layer target="x86_64-unknown-linux-musl": (_install "target/layer/usr/local" ("--target " + target))
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C target/layer -cf target/layer.tar usr

# Build an archive of the programs and manual pages in target/dist
dist: (_install "target/dist/ess-migrate" "")
    install -D -m 644 -t target/dist/ess-migrate/share/man/man1 man/*.1
    install -D -m 644 -t target/dist/ess-migrate/share/man/man5 man/*.5
    install -D -m 644 -t target/dist/ess-migrate/share/man/man7 man/*.7
    tar -C target/dist -czf target/dist/ess-migrate.tar.gz ess-migrate

# Build the programs as one file with a link for each name
_install root flags:
    cargo install --locked --path . --bin ess-migrate --root {{ root }} --no-track --force {{ flags }}
    for source in bin/*.rs; do \
        name=$(basename "$source" .rs); \
        [ "$name" = ess-migrate ] || [ "$name" = programs ] || ln -f {{ root }}/bin/ess-migrate {{ root }}/bin/"$name"; \
    done
