//! Benchmarks and the demo, which a recipe of the `justfile` runs.

mod data_path;
mod demo;
mod kills;
mod link;
mod media;
mod preflight;
