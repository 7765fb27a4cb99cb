//! The table of contents of an archive (`pg_restore -l`), and which of its entries are loaded.

use ess_document::Dropped;

/// One entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line exactly as printed, for `pg_restore -L`.
    pub line: String,
    /// Its kind, such as `TABLE DATA`; empty if the kind is unknown.
    pub kind: &'static str,
    /// Schema, name and owner exactly as printed.
    pub rest: String,
}

/// The table of contents of an archive.
#[derive(Debug, Clone, Default)]
pub struct Toc {
    /// The entries, in the archive's order.
    pub entries: Vec<Entry>,
}

/// The kinds of entries that are loaded.
const LOADED: [&str; 44] = [
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TABLE DATA",
    "TABLE ATTACH",
    "TABLE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SEQUENCE",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "INDEX ATTACH",
    "INDEX",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "OPERATOR",
    "STATISTICS DATA",
    "STATISTICS",
    "BLOB METADATA",
    "BLOBS",
    "BLOB",
    "DEFAULT",
    "DOMAIN",
    "SHELL TYPE",
    "TYPE",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "TRIGGER",
    "RULE",
    "VIEW",
    "COLLATION",
    "COMMENT",
    "CONVERSION",
    "CAST",
    "SCHEMA",
    "ROW SECURITY",
    "POLICY",
    "ENCODING",
    "STDSTRINGS",
    "SEARCHPATH",
    "DATABASE PROPERTIES",
];

/// The kinds of entries that are left out, with the reason.
const LEFT_OUT: [(&str, &str); 20] = [
    ("FOREIGN TABLE", "foreign data is not carried"),
    ("TEXT SEARCH PARSER", "text search parsers need a superuser"),
    ("TEXT SEARCH TEMPLATE", "text search templates need a superuser"),
    ("ACCESS METHOD", "access methods need a superuser"),
    ("TRANSFORM", "languages need a superuser"),
    ("EVENT TRIGGER", "event triggers need a superuser"),
    ("EXTENSION", "the target has its own extensions"),
    ("PUBLICATION TABLE", "replication has to be set up again"),
    ("PUBLICATION TABLES IN SCHEMA", "replication has to be set up again"),
    ("PUBLICATION", "replication has to be set up again"),
    ("SUBSCRIPTION TABLE", "replication has to be set up again"),
    ("SUBSCRIPTION", "replication has to be set up again"),
    ("DEFAULT ACL", "privileges are not carried"),
    ("ACL", "privileges are not carried"),
    ("SECURITY LABEL", "security labels are not carried"),
    ("DATABASE", "the target database already exists"),
    ("FOREIGN DATA WRAPPER", "foreign data is not carried"),
    ("SERVER", "foreign data is not carried"),
    ("USER MAPPING", "foreign data is not carried"),
    ("PROCEDURAL LANGUAGE", "languages need a superuser"),
];

/// Comments on objects that are not loaded, or for which the target's role lacks permission.
const FOREIGN_COMMENTS: [&str; 7] = [
    "- EXTENSION ",
    "- DATABASE ",
    "- EVENT TRIGGER ",
    "- PUBLICATION ",
    "- SUBSCRIPTION ",
    "- SERVER ",
    "- CAST ",
];

impl Toc {
    /// Parses the output of `pg_restore -l`.
    pub fn parse(listing: &str) -> Self {
        let entries = listing
            .lines()
            .filter(|line| !line.starts_with(';') && !line.trim().is_empty())
            .filter_map(|line| {
                // "215; 1259 16386 TABLE public users synapse"
                let rest = line.split_once("; ")?.1;
                let description = rest.splitn(3, ' ').nth(2)?;
                let known = LEFT_OUT.iter().map(|(kind, _)| *kind).chain(LOADED);
                // The longest match: TABLE DATA, not TABLE.
                let kind = known
                    .filter(|kind| {
                        description
                            .strip_prefix(kind)
                            .is_some_and(|after| after.starts_with(' '))
                    })
                    .max_by_key(|kind| kind.len())
                    .unwrap_or("");
                Some(Entry {
                    line: line.to_owned(),
                    kind,
                    rest: description[kind.len()..].trim_start().to_owned(),
                })
            })
            .collect();
        Self { entries }
    }

    /// The entries to load, and those left out with the reason.
    ///
    /// The schema `public` and its comment are in neither list: the target already has its own.
    pub fn divide(&self) -> (Vec<&Entry>, Vec<Dropped>) {
        let mut loaded = Vec::new();
        let mut dropped = Vec::new();
        for entry in &self.entries {
            let is = |kind: &str, start: &str| entry.kind == kind && entry.rest.starts_with(start);
            if entry.is_public() || is("COMMENT", "- SCHEMA public ") {
                continue;
            }
            let not_the_roles = FOREIGN_COMMENTS.iter().any(|start| is("COMMENT", start));
            if LOADED.contains(&entry.kind) && !not_the_roles {
                loaded.push(entry);
                continue;
            }
            let reason = match LEFT_OUT.iter().find(|(kind, _)| *kind == entry.kind) {
                Some((_, reason)) => reason,
                None if not_the_roles => "a comment on an object that the target's role does not own",
                None => "these tools do not load objects of this kind",
            };
            dropped.push(Dropped {
                entry: format!("{} {}", entry.kind, entry.rest).trim().to_owned(),
                reason: reason.to_owned(),
            });
        }
        (loaded, dropped)
    }

    /// The data entry of a table, if there is one.
    ///
    /// Names and owners may contain spaces, so the entries of the tables `a` and `a b` both match `a`: the shorter one
    /// is the right one.
    pub fn data_of(&self, schema: &str, name: &str) -> Option<&Entry> {
        let all = self.entries.iter().filter(|entry| entry.is_data_of(schema, name));
        all.min_by_key(|entry| entry.rest.len())
    }
}

impl Entry {
    /// Its dump ID in the archive, which `pg_restore --verbose` prints too.
    pub fn number(&self) -> &str {
        self.line.split(';').next().unwrap_or_default()
    }

    /// Whether this is the schema `public`, and not one such as `public x`: it has the fixed OID 2200, or its name and
    /// its owner are one word each.
    fn is_public(&self) -> bool {
        self.kind == "SCHEMA"
            && self.rest.starts_with("- public ")
            && (self.line.split(' ').nth(2) == Some("2200") || self.rest.split(' ').count() == 3)
    }

    /// Whether this is the data of this table, or of one whose name begins with this name and a space.
    pub fn is_data_of(&self, schema: &str, name: &str) -> bool {
        self.kind == "TABLE DATA" && self.rest.starts_with(&format!("{schema} {name} "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
;
; Archive created at 2026-11-22 20:00:00 UTC
;     dbname: Synapse-Prod
;
4; 2615 2200 SCHEMA - public postgres
3700; 0 0 COMMENT - SCHEMA public postgres
3701; 0 0 COMMENT - EXTENSION pg_stat_statements
3702; 0 0 COMMENT public TABLE users synapse
2; 3079 16384 EXTENSION - pg_stat_statements
215; 1259 16386 TABLE public users synapse
3650; 0 16386 TABLE DATA public users synapse
3651; 0 16399 TABLE DATA public schema_version synapse
900; 3466 17000 EVENT TRIGGER - audit postgres
901; 6104 17001 PUBLICATION - all postgres
902; 9999 17002 NOVELTY public x synapse
903; 2606 17003 FK CONSTRAINT public a a_fkey synapse
";

    #[test]
    fn what_an_ordinary_role_cannot_load_is_left_out_and_named() {
        let toc = Toc::parse(LISTING);
        let (loaded, dropped) = toc.divide();
        let kinds: Vec<&str> = loaded.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["COMMENT", "TABLE", "TABLE DATA", "TABLE DATA", "FK CONSTRAINT"]);
        let left: Vec<&str> = dropped.iter().map(|d| d.entry.as_str()).collect();
        assert_eq!(
            left,
            [
                "COMMENT - EXTENSION pg_stat_statements",
                "EXTENSION - pg_stat_statements",
                "EVENT TRIGGER - audit postgres",
                "PUBLICATION - all postgres",
                "NOVELTY public x synapse",
            ]
        );
        assert!(loaded[3].is_data_of("public", "schema_version"));
        assert_eq!(loaded[3].number(), "3651");
    }

    #[test]
    fn names_that_begin_alike_are_distinguished() {
        let toc = Toc::parse(
            "4; 2615 2200 SCHEMA - public pg_database_owner\n5; 2615 16400 SCHEMA - public x synapse\n\
             6; 2615 16401 SCHEMA - public synapse\n7; 0 1 TABLE DATA public users x synapse\n\
             8; 0 2 TABLE DATA public users synapse\n",
        );
        let numbers: Vec<&str> = toc.divide().0.iter().map(|entry| entry.number()).collect();
        assert_eq!(numbers, ["5", "7", "8"]);
        assert_eq!(toc.data_of("public", "users").map(Entry::number), Some("8"));
        assert_eq!(toc.data_of("public", "users x").map(Entry::number), Some("7"));
    }
}
