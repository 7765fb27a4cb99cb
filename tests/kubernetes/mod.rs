//! A target in a real Kubernetes (`just test-cluster`), which needs root.

mod interruptions;
mod media;
mod permissions;
mod pipeline;
