//! The space of a volume, measured in a pod that mounts it.

use std::io::Read as _;
use std::time::Duration;

use crate::Cluster;
use crate::error::Error;

/// How long df or du may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How much of their output is read, in bytes.
const OUTPUT: u64 = 64 << 10;

impl Cluster {
    /// The bytes that a volume can hold: no more than `claimed`, the size of its claim, nor than what is free in its file
    /// system and what it already contains together.
    ///
    /// The size of a claim does not limit it where the provisioner does not enforce it: k3s's local-path and `hostPath` give
    /// every claim all the space of the node's disk. Without df or du, or if they take longer than 20 s, only the claim
    /// counts.
    pub fn space(&self, pod: &str, container: &str, path: &str, claimed: Option<u64>) -> Result<Option<u64>, Error> {
        let free = self.output(pod, container, &["df", "-P", "-k", path])?;
        let Some(free) = free.as_deref().and_then(available) else {
            return Ok(claimed);
        };
        // Then it does not matter what it contains, which takes long to add up in a large store.
        if claimed.is_some_and(|claimed| claimed <= free) {
            return Ok(claimed);
        }
        let used = self.output(pod, container, &["du", "-s", "-k", path])?;
        let space = used.as_deref().and_then(total).map(|used| free.saturating_add(used));
        Ok(claimed.into_iter().chain(space).min())
    }

    /// The standard output of a short command in a container; `None` if it fails.
    fn output(&self, pod: &str, container: &str, command: &[&str]) -> Result<Option<String>, Error> {
        let mut exec = self.exec(pod, container, command, false)?;
        exec.stdout.limited(LIMIT);
        let mut text = String::new();
        let read = (&mut exec.stdout).take(OUTPUT).read_to_string(&mut text);
        if read.is_err() {
            return Ok(None);
        }
        Ok((exec.wait(LIMIT)?.code == 0).then_some(text))
    }
}

/// The available space that df prints with the options of POSIX, `-P -k`: the column before the percentage.
fn available(text: &str) -> Option<u64> {
    // Names of file systems and mount points may contain spaces.
    let columns: Vec<&str> = text.lines().nth(1)?.split_whitespace().collect();
    let percent = columns.iter().rposition(|column| column.ends_with('%'))?;
    kibibytes(columns.get(percent.checked_sub(1)?)?)
}

/// The total that `du -s -k` prints.
fn total(text: &str) -> Option<u64> {
    kibibytes(text.split_whitespace().next()?)
}

fn kibibytes(number: &str) -> Option<u64> {
    number.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{available, total};

    #[test]
    fn the_available_space_is_read_as_df_prints_it() {
        let text = |line: &str| format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n{line}\n");
        assert_eq!(available(&text("/dev/sda1 100 40 60 40% /media")), Some(60 << 10));
        assert_eq!(available(&text("server:/a b 100 40 60 40% /my media")), Some(60 << 10));
        assert_eq!(available(&text("tmpfs 100 100 0 100% /tmp")), Some(0));
        assert_eq!(available("df: /media: No such file or directory\n"), None);
        assert_eq!(available(&text("overlay - - - - /")), None);
    }

    #[test]
    fn the_used_space_is_read_as_du_prints_it() {
        assert_eq!(total("12\t/media\n"), Some(12 << 10));
        assert_eq!(total(""), None);
    }
}
