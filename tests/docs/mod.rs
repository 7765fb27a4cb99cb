//! Pages, README, the words in them, and the dependencies of the crates.

mod crates;
mod findings;
mod help;
mod man;
mod readme;
mod words;
