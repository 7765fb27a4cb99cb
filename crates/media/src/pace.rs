//! `--bwlimit`: a limit on the bytes sent per second.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use ess_run::locked;

/// The limit, shared by all lanes.
pub(crate) struct Pace {
    rate: Option<u64>,
    /// When the time that the bytes so far need has passed.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be sent.
    pub(crate) fn wait(&self, bytes: u64) -> Result<(), ess_run::Interrupted> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = Instant::now();
        let turn = {
            let mut next = locked(&self.next);
            let turn = (*next).max(now);
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
            *next = turn + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            turn
        };
        while let Some(left) = turn
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            ess_run::stop_if_interrupted()?;
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// The argument of `--bwlimit`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let factor: u64 = match unit {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return Err("not a number of bytes, optionally with K, M or G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|rate| *rate > 0)
        .ok_or_else(|| "zero or too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_for_rsync() {
        assert_eq!(rate("1000"), Ok(1000));
        assert_eq!(rate("10M"), Ok(10 << 20));
        assert_eq!(rate("2k"), Ok(2 << 10));
        for wrong in [
            "",
            "M",
            "0",
            "-1",
            "1.5M",
            "10MB",
            "99999999999999999999",
            "99999999999999G",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_wait_for_their_turn() {
        let pace = Pace::new(Some(1 << 20));
        let start = Instant::now();
        for _ in 0..4 {
            assert!(pace.wait(64 << 10).is_ok());
        }
        // The fourth waits for the time of the first three: 3 * 62.5 ms.
        assert!(start.elapsed() >= Duration::from_millis(187));
    }
}
