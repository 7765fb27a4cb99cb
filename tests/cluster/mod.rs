//! A target in a cluster, with a stand-in for its API server that the real kubectl checks.

mod access;
mod database;
mod ess_job;
mod ess_scale;
mod kube_stand_in;
mod media_sync;
mod permissions;
mod pipeline;
mod preflight;
mod streams;
