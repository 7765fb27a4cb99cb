//! A target in a cluster, with a stand-in for its API server that the real kubectl checks.

mod ess_job;
mod ess_scale;
mod kube;
mod kube_stand_in;
mod media_sync;
mod preflight;
