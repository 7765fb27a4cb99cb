//! Which version of Synapse has which version of the schema.

use ess_postgres::SchemaRows;

/// Minor and patch version of the first Synapse 1.x with these values of `SCHEMA_VERSION` and `SCHEMA_COMPAT_VERSION`
/// (`synapse/storage/schema/__init__.py`).
type First = (u32, u32, i32, i32);

#[rustfmt::skip]
const FIRST: &[First] = &[
    (37, 0, 59, 59), (38, 0, 60, 59), (39, 0, 61, 59), (41, 0, 63, 59), (44, 0, 64, 59), (45, 0, 64, 60),
    (46, 0, 65, 60), (48, 0, 65, 61), (49, 0, 66, 61), (50, 0, 67, 61), (52, 0, 68, 66), (57, 0, 69, 66),
    (58, 0, 69, 69), (60, 0, 70, 69), (61, 0, 71, 69), (62, 0, 72, 71), (64, 0, 72, 72), (68, 0, 73, 72),
    (70, 0, 73, 73), (77, 0, 74, 73), (83, 0, 76, 74), (85, 0, 77, 76), (86, 0, 78, 76), (89, 0, 79, 76),
    (90, 0, 80, 76), (92, 0, 81, 80), (93, 0, 82, 80), (96, 0, 83, 80), (98, 0, 83, 83), (100, 0, 84, 83),
    (105, 1, 84, 84), (107, 0, 85, 84), (112, 0, 86, 84), (114, 0, 87, 84), (116, 0, 88, 84), (124, 0, 89, 84),
    (128, 0, 91, 84), (129, 0, 92, 84), (143, 0, 93, 84), (151, 0, 94, 84),
];

/// A version of Synapse, represented by its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SynapseVersion {
    schema: i32,
    compat: i32,
}

impl SynapseVersion {
    /// Parses the argument of `--target-synapse-version`, or the tag of an image: `1.157.1`, optionally with a `v` in
    /// front, and with a suffix.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "not a version of Synapse such as 1.157.1".to_owned();
        let number = text
            .trim()
            .trim_start_matches('v')
            .split([' ', '-', '+', 'r'])
            .next()
            .unwrap_or_default();
        let parts: Vec<u32> = number
            .split('.')
            .map(|part| part.parse().map_err(|_| wrong()))
            .collect::<Result<_, _>>()?;
        let &[1, minor, ref patch @ ..] = parts.as_slice() else {
            return Err(wrong());
        };
        let patch = patch.first().copied().unwrap_or(0);
        FIRST
            .iter()
            .rev()
            .find(|first| (first.0, first.1) <= (minor, patch))
            .map(|&(_, _, schema, compat)| Self { schema, compat })
            .ok_or_else(|| "older than any Synapse in ESS".to_owned())
    }

    /// The version rows that its database would contain.
    pub(crate) fn rows(self) -> SchemaRows {
        SchemaRows {
            version: Some(self.schema),
            upgraded: Some(false),
            compat_version: Some(self.compat),
        }
    }
}

/// The version of Synapse that introduced a schema, for messages.
pub(crate) fn of_schema(schema: i32) -> String {
    let newest = FIRST.last().map_or(0, |first| first.2);
    match FIRST.iter().find(|first| first.2 >= schema) {
        _ if schema > newest => "a Synapse newer than these tools".to_owned(),
        Some((minor, 0, ..)) => format!("Synapse 1.{minor} or newer"),
        Some((minor, patch, ..)) => format!("Synapse 1.{minor}.{patch} or newer"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_known_by_its_schema() {
        let parse = |text| SynapseVersion::parse(text).map(|version| (version.schema, version.compat));
        assert_eq!(parse("1.157.1"), Ok((94, 84)));
        assert_eq!(parse("v1.105.0"), Ok((84, 83)));
        assert_eq!(parse("1.105.1 (b=main,abc)"), Ok((84, 84)));
        assert_eq!(parse("1.151.0rc1"), Ok((94, 84)));
        for wrong in ["", "2.0", "1", "1.x", "latest", "1.20.0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(of_schema(94), "Synapse 1.151 or newer");
        assert_eq!(of_schema(84), "Synapse 1.100 or newer");
        assert_eq!(of_schema(95), "a Synapse newer than these tools");
        assert!(FIRST.is_sorted());
    }
}
