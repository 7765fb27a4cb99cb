# List what can be done here
_default:
    @just --list --unsorted

# Move a throwaway homeserver into a throwaway ESS database, and say what happened
demo: install-needs
    cargo test --locked --quiet --test e2e demo::demo -- --exact --ignored --nocapture

# The data path against its peers on sources of so many MB in two shapes; pgcopydb takes part where it is installed
bench mb="2000" rounds="9": install-needs
    BENCH_MB={{ mb }} BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench::bench -- --exact --ignored --nocapture

# The data path killed at each stage, and how long the same line then takes to finish
bench-kills mb="200": install-needs
    BENCH_MB={{ mb }} cargo test --release --locked --quiet --test e2e bench_kills -- --ignored --nocapture

# A whole run of preflight on a healthy small server
bench-preflight rounds="10": install-needs
    BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench_preflight -- --ignored --nocapture

# The data path over a limited link, from each place the programs can run; needs root, iproute2 and rsync
bench-link mb="500" mbit="200": install-needs
    BENCH_MB={{ mb }} BENCH_MBIT={{ mbit }} cargo test --release --locked --quiet --test e2e bench_link -- --ignored --nocapture

# media-sync beside rsync on a store of so many files and MB; needs rsync
bench-media files="20000" mb="2000" rounds="5": install-needs
    BENCH_FILES={{ files }} BENCH_MB={{ mb }} BENCH_ROUNDS={{ rounds }} cargo test --release --locked --quiet --test e2e bench_media -- --ignored --nocapture

# Faults at random moments of the whole line; `just soak 1 SEED` repeats a round
soak rounds="200" seed="": install-needs
    SOAK_ROUNDS={{ rounds }} {{ if seed == "" { "" } else { "SOAK_SEED=" + seed } }} cargo test --locked --quiet --test e2e soak::soak -- --exact --ignored --nocapture

# Unit and end-to-end tests; needs what install-needs installs
test *args: install-needs
    cargo test --workspace --locked {{ args }}

# Everything CI runs, cheapest to fail first
ci: install-needs fmt-check lint man test

# Format
fmt:
    cargo fmt --all

# Is it formatted?
fmt-check:
    cargo fmt --all --check

# Lint, warnings are errors
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Read the manual pages as a formatter does
man:
    mandoc -T lint -W warning man/*

# Hold the Helm values that we emit against a chart's values.schema.json (an absolute path)
chart-schema path:
    CHART_SCHEMA={{ path }} cargo test --locked --test e2e the_values_fit_a_chart -- --ignored

# Licences, bans, sources; needs cargo-deny and an earlier `cargo fetch`, and no network
deny:
    cargo deny --offline check bans licenses sources

# Rewrite what is generated and committed: the schema, the snapshots; needs cargo-insta
update:
    UPDATE=1 cargo test --locked -p ess-document
    cargo insta test --accept --workspace

# Install by apt what is missing here; what is there stays as it is
install-needs:
    @.ci/needs

# The static programs as one layer for an image; needs the target x86_64-unknown-linux-musl and musl-gcc
layer target="x86_64-unknown-linux-musl":
    cargo install --locked --path . --target {{ target }} --root target/layer/usr/local --no-track --force
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C target/layer -cf target/layer.tar usr

# The programs and their pages as one archive in target/dist
dist:
    cargo install --locked --path . --root target/dist/ess-migrate --no-track --force
    install -D -m 644 -t target/dist/ess-migrate/share/man/man1 man/*.1
    install -D -m 644 -t target/dist/ess-migrate/share/man/man5 man/*.5
    install -D -m 644 -t target/dist/ess-migrate/share/man/man7 man/*.7
    tar -C target/dist -czf target/dist/ess-migrate.tar.gz ess-migrate
