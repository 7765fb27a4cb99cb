//! ESS on Kubernetes: find its parts, scale its workloads, run programs in its pods, forward a port.
//!
//! Blocking calls over kube-rs, which a signal can interrupt. The cluster is that of the kubeconfig, with its
//! credential plugins, or that of the pod in which this program runs, with the pod's service account.

mod changes;
mod cluster;
mod community;
mod database;
mod error;
mod ess;
mod exec;
mod find;
mod forward;
mod gitops;
mod helper;
mod ingress;
mod media;
mod operator;
mod place;
mod proxy;
mod rights;
mod space;
mod workload;

pub use changes::Moment;
pub use cluster::Cluster;
pub use database::{Database, PodPort};
pub use error::{Error, ErrorKind};
pub use ess::{Custom, Distribution, Ess, Operator, SecretKey};
pub use exec::{Ended, Exec, Input, Output};
pub use forward::Forward;
pub use gitops::GitOps;
pub use helper::Helper;
pub use ingress::{Challenge, Issuer, Stored, Tls};
pub use k8s_openapi;
pub use media::{Media, Mounted, bytes};
pub use operator::{OPERATOR, OPERATOR_NAMESPACE};
pub use place::Place;
pub use rights::{Missing, Right};
pub use workload::{REPLICAS, Workload, WorkloadKind};
