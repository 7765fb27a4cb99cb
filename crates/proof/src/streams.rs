//! Sequences that are behind a stream position that Synapse recorded, for which it refuses to start.

use std::fmt;

use ess_postgres::DatabaseState;
use ess_synapse::schema::SEQUENCES;

/// A sequence that is behind its stream.
pub(crate) struct Behind {
    sequence: &'static str,
    last: i64,
    stream: &'static str,
    position: i64,
}

impl Behind {
    /// SQL that advances the sequence.
    pub(crate) fn remedy(&self) -> String {
        format!("SELECT setval('public.{}', {})", self.sequence, self.position)
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            last,
            stream,
            position,
        } = self;
        write!(
            f,
            "sequence {sequence} is at {last}, behind position {position} of stream {stream}: Synapse would not start"
        )
    }
}

/// Compares positions with sequences, by `check_consistency` in `synapse/storage/util/sequence.py`. While Synapse runs,
/// `positions` must be read first.
pub(crate) fn behind_their_streams(positions: &DatabaseState, sequences: &DatabaseState) -> Vec<Behind> {
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    let all = SEQUENCES.iter().filter_map(|rule| {
        let stream = rule.stream?;
        let mut named = sequences.sequences.iter();
        let sequence = named.find(|s| s.schema == "public" && s.name == rule.name)?;
        let last = number(&sequence.last_value) - i64::from(!sequence.is_called);
        let of_stream = positions.stream_positions.iter().filter(|p| p.stream == stream);
        let position = of_stream.map(|p| number(&p.position)).max()?;
        (position > last).then_some(Behind {
            sequence: rule.name,
            last,
            stream,
            position,
        })
    });
    all.collect()
}
