//! Synapse's own formats: configuration, signing keys, media store, tables and sequences.

pub mod config;
pub mod ess;
pub mod media;
pub mod placeholder;
pub mod schema;
pub mod secrets;
pub mod signing_key;
pub mod tables;
pub mod yaml;

mod text;

pub use config::{Config, ConfigError, Options};
