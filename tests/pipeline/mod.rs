//! The complete pipeline, by what is awkward about the servers.

mod clients;
mod complete;
mod fence;
mod limits;
mod majors;
mod movement;
mod old_databases;
mod poolers;
mod sources;
mod unloadable;
