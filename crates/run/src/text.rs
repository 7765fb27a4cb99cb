//! Counts and sizes in sentences for people.

use std::fmt::Display;

/// `1 table`, `2 tables`. The plural is the singular with an `s`.
pub fn count(n: impl Display, singular: &str) -> String {
    counted(n, singular, &format!("{singular}s"))
}

/// `1 entry`, `2 entries`.
pub fn counted(n: impl Display, singular: &str, plural: &str) -> String {
    let n = n.to_string();
    let what = if n == "1" { singular } else { plural };
    format!("{n} {what}")
}

/// A size in the largest binary unit of which there is at least one, with one decimal rounded down: `14.7 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    if bytes < 1024 {
        return count(bytes, "byte");
    }
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(count(0, "table"), "0 tables");
        assert_eq!(count(1, "other session"), "1 other session");
        assert_eq!(counted(2, "entry", "entries"), "2 entries");
    }

    #[test]
    fn a_size_has_the_largest_unit_that_fits() {
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
        assert_eq!(size(15_392_103), "14.6 MiB");
        assert_eq!(size(u64::MAX), "16383.9 PiB");
    }
}
