//! `--only` and `--skip`: which findings are reported.

use ess_document::{Finding, Severity};

use crate::ids::{ALL, NOT_CHECKED};

/// An id in which `*` matches any characters.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// Parses the argument of `--only` or `--skip`; an error if it matches no id.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let pattern = Self(text.to_owned());
        if ALL.iter().any(|id| pattern.fits(id.name)) {
            Ok(pattern)
        } else {
            Err("not the id of a finding; preflight(1) lists them".to_owned())
        }
    }

    fn fits(&self, id: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| id.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                return false;
            };
            rest = after;
        }
        rest.ends_with(last)
    }
}

/// The arguments of `--only` and `--skip`.
#[derive(Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) only: &'a [Pattern],
    pub(crate) skip: &'a [Pattern],
}

impl Selection<'_> {
    /// Whether to report the finding. A blocker is never skipped; a failed check (`not-checked`) is always reported.
    pub(crate) fn selects(self, finding: &Finding) -> bool {
        finding.id == NOT_CHECKED.name
            || (self.is_among(&finding.id) && (finding.severity == Severity::Blocker || !self.skips(&finding.id)))
    }

    /// Whether any finding of a check would be reported, so that the check is worth running. `finds` matches its ids.
    pub(crate) fn selects_any(self, finds: impl Fn(&str) -> bool) -> bool {
        let mut ids = ALL.iter().filter(|id| finds(id.name));
        ids.any(|id| self.is_among(id.name) && !self.skips(id.name))
    }

    fn is_among(self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.fits(id))
    }

    fn skips(self, id: &str) -> bool {
        self.skip.iter().any(|skip| skip.fits(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{blocker, info, warning};
    use crate::ids::{DNS, DNS_TTL, MEDIA, SQLITE};

    fn patterns(all: &[&str]) -> Vec<Pattern> {
        all.iter()
            .map(|text| Pattern::parse(text).expect("an id fits"))
            .collect()
    }

    #[test]
    fn a_star_stands_for_anything() {
        let fits = |pattern: &str, id| Pattern(pattern.to_owned()).fits(id);
        assert!(fits("dns*", "dns-ttl") && fits("dns*", "dns") && fits("*", "dns") && fits("d*t*l", "dns-ttl"));
        assert!(!fits("dns", "dns-ttl") && !fits("*-ttl", "dns-ttls") && !fits("dns*dns", "dns"));
        assert!(Pattern::parse("no-such-*").is_err());
    }

    #[test]
    fn blockers_are_not_skipped() {
        let (dns, all) = (patterns(&["dns*"]), patterns(&["*"]));
        let only = Selection { only: &dns, skip: &[] };
        assert!(only.selects(&info(&DNS, "")) && !only.selects(&info(&MEDIA, "")));
        assert!(only.selects(&blocker(&NOT_CHECKED, "")) && !only.selects(&blocker(&SQLITE, "")));
        let skip = Selection { only: &[], skip: &all };
        assert!(!skip.selects(&warning(&DNS_TTL, "")) && skip.selects(&blocker(&SQLITE, "")));
        assert!(!skip.selects_any(|id| id.starts_with("dns")) && only.selects_any(|id| id.starts_with("dns")));
    }
}
