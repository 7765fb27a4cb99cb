//! Waits for objects to change, by a watch instead of polling.

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{ListParams, WatchParams};

use crate::Cluster;
use crate::cluster::Thing;
use crate::error::Error;

/// How long to wait in place of a watch that the API server refuses.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest time that a watch may take, in seconds: the API server closes them after five minutes.
const LONGEST: u64 = 290;

/// A moment in the history of the objects that match a label selector.
#[derive(Debug, Clone)]
pub struct Moment(Option<String>);

impl Cluster {
    /// The present moment. Take it before looking at the objects, so that no change is missed.
    pub fn moment<K: Thing>(&self, namespace: &str, labels: &str) -> Result<Moment, Error> {
        let what = format!("cannot list {} in namespace {namespace}", K::plural(&()));
        let params = ListParams::default().labels(labels).limit(1);
        let list = self.wait(&what, self.api::<K>(namespace).list(&params))?;
        Ok(Moment(list.metadata.resource_version))
    }

    /// Waits until one of the objects has changed since `moment`, at most for `limit`.
    ///
    /// It may return without a change: look again, and wait again. Without permission to watch, it waits for half a
    /// second.
    pub fn wait_for_change<K: Thing>(
        &self,
        namespace: &str,
        labels: &str,
        moment: &Moment,
        limit: Duration,
    ) -> Result<(), Error> {
        let what = format!("cannot watch {} in namespace {namespace}", K::plural(&()));
        let version = moment.0.as_deref().unwrap_or_default();
        let seconds = u32::try_from(limit.as_secs().clamp(1, LONGEST)).unwrap_or(1);
        let params = WatchParams::default().labels(labels).timeout(seconds);
        let api = self.api::<K>(namespace);
        let watching = async {
            let Ok(events) = api.watch(&params, version).await else {
                return false;
            };
            let mut events = std::pin::pin!(events);
            matches!(events.next().await, Some(Ok(_)))
        };
        let changed = self.stoppable(&what, async {
            Ok(tokio::time::timeout(limit, watching).await.unwrap_or(true))
        })?;
        if changed { Ok(()) } else { self.pause(PAUSE.min(limit)) }
    }
}
