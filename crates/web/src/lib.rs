//! A homeserver as clients and other servers see it: name servers, HTTPS, `.well-known`.

mod dns;
mod https;
mod names;
mod well_known;

pub use dns::{Answer, Dns};
pub use hickory_resolver::net::NetError;
pub use hickory_resolver::proto::rr::RecordType;
pub use https::{Detour, Response, agent, get, resolver};
pub use names::{host_and_port, host_of_url};
pub use ureq::Agent;
pub use well_known::{Served, read, readable};
