//! The protocol between sender and receiver.
//!
//! A frame is the length of its body, a CRC-32 of the body, and the body: one byte for the type of the frame, then the
//! fields in order. Numbers are little-endian; text and lists are preceded by their length.

use std::io::{self, Read, Write};

/// The version of the protocol, in the first frame of each side. A side that uses another version ends with an error.
pub(crate) const MAGIC: &str = "ess-media/1";

/// How long either side may send nothing, in seconds, unless `--timeout` of the sender sets another limit.
pub(crate) const IDLE: u32 = 300;

/// Maximum number of bytes of a file in one frame.
pub(crate) const CHUNK: usize = 256 << 10;

/// Maximum number of lanes, which is `--jobs` of the sender.
pub(crate) const LANES: u8 = 64;

/// Maximum length of a body, in bytes.
const LIMIT: usize = 1 << 20;

/// SHA-256 of a file.
pub(crate) type Sha256 = [u8; 32];

/// Modification time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// A file in a list of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the unit's directory.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) time: Time,
}

/// User and group ID to own the files of the copy, if given.
pub(crate) type Owner = Option<(u32, u32)>;

/// One message. Files are sent in lanes: within a lane one after another, and answered in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    // From the sender.
    /// The first frame. Each side disconnects after `idle` seconds without a frame from the other, so each sends
    /// `Alive` more often than that.
    Hello { magic: String, owner: Owner, idle: u32 },
    /// List the files of these kinds, given by the names of their directories. A second `List` lists them again.
    List { kinds: Vec<String> },
    /// The receiver may send this many more units.
    More { units: u32 },
    /// Start of a file.
    File { lane: u8, path: String, time: Time },
    /// Next part of the file.
    Data { lane: u8, bytes: Vec<u8> },
    /// The file is complete: answered by `Stored` or `Refused`.
    End { lane: u8 },
    /// The file cannot be read to its end: discard it. Not answered.
    Drop { lane: u8 },
    /// Read a file of the copy: answered by `Stored` or `Refused`.
    Hash { lane: u8, path: String },
    /// Remove a file, and the directories that it leaves empty.
    Remove { path: String },
    /// Flush everything so far to disk, so that it survives a power failure: answered by `Synced`.
    Sync,
    /// The last frame. Needed because older API servers cannot signal the end of the input to a program in a pod.
    Bye,

    // From both.
    /// Keep-alive.
    Alive,

    // From the receiver.
    /// The first frame: the receiver is ready.
    Ready { magic: String },
    /// Files of the copy in one unit; `last` marks the last frame of the unit.
    Unit {
        path: String,
        files: Vec<Entry>,
        last: bool,
    },
    /// End of the list.
    Listed,
    /// The file has its final name (after `End`), or was read (after `Hash`).
    Stored { lane: u8, size: u64, sha256: Sha256 },
    /// This file cannot be written or read; the run continues with the others.
    Refused { lane: u8, why: String },
    /// Everything is on disk.
    Synced,
    /// The run has failed: exit status and reason.
    Failed { exit: u8, why: String },
}

impl Frame {
    /// Its type, for messages. Never its content, which may be large and comes from the other side.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "Hello",
            Self::List { .. } => "List",
            Self::More { .. } => "More",
            Self::File { .. } => "File",
            Self::Data { .. } => "Data",
            Self::End { .. } => "End",
            Self::Drop { .. } => "Drop",
            Self::Hash { .. } => "Hash",
            Self::Remove { .. } => "Remove",
            Self::Sync => "Sync",
            Self::Bye => "Bye",
            Self::Alive => "Alive",
            Self::Ready { .. } => "Ready",
            Self::Unit { .. } => "Unit",
            Self::Listed => "Listed",
            Self::Stored { .. } => "Stored",
            Self::Refused { .. } => "Refused",
            Self::Synced => "Synced",
            Self::Failed { .. } => "Failed",
        }
    }

    /// Writes the frame to a stream.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut body = Body(Vec::with_capacity(64));
        self.encode(&mut body);
        let Body(head) = body;
        // Written separately, to avoid copying a file's content into the body.
        let tail: &[u8] = match self {
            Self::Data { bytes, .. } => bytes,
            _ => &[],
        };
        let length = u32::try_from(head.len() + tail.len()).map_err(io::Error::other)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(tail);
        let mut start = Vec::with_capacity(8 + head.len());
        start.extend(length.to_le_bytes());
        start.extend(crc.finalize().to_le_bytes());
        start.extend(head);
        to.write_all(&start)?;
        to.write_all(tail)
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub(crate) fn read(from: &mut dyn Read) -> io::Result<Option<Self>> {
        let mut start = [0; 8];
        let mut have = 0;
        while have < start.len() {
            match from.read(&mut start[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(broken("it ends within a frame")),
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        let length = usize::try_from(number(0)).map_err(io::Error::other)?;
        if length == 0 || length > LIMIT {
            return Err(broken("it contains something other than frames"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).map_err(|error| match error.kind() {
            // An error that has a message of its own, such as that of a cut exec stream, is kept.
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => broken("it ends within a frame"),
            _ => error,
        })?;
        if crc32fast::hash(&body) != number(4) {
            return Err(broken("a frame is damaged"));
        }
        Self::decode(body).map(Some)
    }

    fn encode(&self, body: &mut Body) {
        match self {
            Self::Hello { magic, owner, idle } => {
                body.kind(1).text(magic).byte(owner.is_some().into());
                let (user, group) = owner.unwrap_or_default();
                body.u32(user).u32(group).u32(*idle);
            }
            Self::List { kinds } => {
                body.kind(2).count(kinds.len());
                for kind in kinds {
                    body.text(kind);
                }
            }
            Self::More { units } => {
                body.kind(3).u32(*units);
            }
            Self::File { lane, path, time } => {
                body.kind(4).byte(*lane).text(path).time(*time);
            }
            Self::Data { lane, .. } => {
                body.kind(5).byte(*lane);
            }
            Self::End { lane } => {
                body.kind(6).byte(*lane);
            }
            Self::Drop { lane } => {
                body.kind(7).byte(*lane);
            }
            Self::Hash { lane, path } => {
                body.kind(8).byte(*lane).text(path);
            }
            Self::Remove { path } => {
                body.kind(9).text(path);
            }
            Self::Sync => {
                body.kind(10);
            }
            Self::Bye => {
                body.kind(11);
            }
            Self::Alive => {
                body.kind(12);
            }
            Self::Ready { magic } => {
                body.kind(20).text(magic);
            }
            Self::Unit { path, files, last } => {
                body.kind(21).text(path).byte((*last).into()).count(files.len());
                for file in files {
                    body.text(&file.path).u64(file.size).time(file.time);
                }
            }
            Self::Listed => {
                body.kind(22);
            }
            Self::Stored { lane, size, sha256 } => {
                body.kind(23).byte(*lane).u64(*size).0.extend(sha256);
            }
            Self::Refused { lane, why } => {
                body.kind(24).byte(*lane).text(why);
            }
            Self::Synced => {
                body.kind(25);
            }
            Self::Failed { exit, why } => {
                body.kind(26).byte(*exit).text(why);
            }
        }
    }

    fn decode(mut body: Vec<u8>) -> io::Result<Self> {
        if body.first() == Some(&5) && body.len() >= 2 {
            let lane = body[1];
            body.drain(..2);
            if body.len() > CHUNK {
                return Err(broken("a frame is too long"));
            }
            return Ok(Self::Data { lane, bytes: body });
        }
        let mut rest = Rest(&body);
        let frame = match rest.byte()? {
            1 => {
                let (magic, has_owner) = (rest.text()?, rest.byte()? != 0);
                let owner = (rest.u32()?, rest.u32()?);
                Self::Hello {
                    magic,
                    owner: has_owner.then_some(owner),
                    idle: rest.u32()?,
                }
            }
            2 => Self::List {
                kinds: (0..rest.u32()?).map(|_| rest.text()).collect::<io::Result<_>>()?,
            },
            3 => Self::More { units: rest.u32()? },
            4 => Self::File {
                lane: rest.byte()?,
                path: rest.text()?,
                time: rest.time()?,
            },
            6 => Self::End { lane: rest.byte()? },
            7 => Self::Drop { lane: rest.byte()? },
            8 => Self::Hash {
                lane: rest.byte()?,
                path: rest.text()?,
            },
            9 => Self::Remove { path: rest.text()? },
            10 => Self::Sync,
            11 => Self::Bye,
            12 => Self::Alive,
            20 => Self::Ready { magic: rest.text()? },
            21 => {
                let (path, last) = (rest.text()?, rest.byte()? != 0);
                let entry = |rest: &mut Rest<'_>| {
                    Ok(Entry {
                        path: rest.text()?,
                        size: rest.u64()?,
                        time: rest.time()?,
                    })
                };
                let files = (0..rest.u32()?).map(|_| entry(&mut rest)).collect::<io::Result<_>>()?;
                Self::Unit { path, files, last }
            }
            22 => Self::Listed,
            23 => Self::Stored {
                lane: rest.byte()?,
                size: rest.u64()?,
                sha256: rest.array()?,
            },
            24 => Self::Refused {
                lane: rest.byte()?,
                why: rest.text()?,
            },
            25 => Self::Synced,
            26 => Self::Failed {
                exit: rest.byte()?,
                why: rest.text()?,
            },
            _ => return Err(broken("a frame has an unknown type")),
        };
        if rest.0.is_empty() {
            Ok(frame)
        } else {
            Err(broken("a frame is too long"))
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stream is broken: {why}"))
}

/// A body that is being encoded.
struct Body(Vec<u8>);

impl Body {
    fn kind(&mut self, kind: u8) -> &mut Self {
        self.byte(kind)
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn text(&mut self, text: &str) -> &mut Self {
        // Cut off, to stay within `LIMIT`: paths and messages are shorter.
        let text = &text.as_bytes()[..text.len().min(60_000)];
        self.count(text.len());
        self.0.extend(text);
        self
    }

    fn time(&mut self, time: Time) -> &mut Self {
        self.0.extend(time.seconds.to_le_bytes());
        self.u32(time.nanoseconds)
    }
}

/// The part of a body that is not yet decoded.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (first, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| broken("a frame is too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.u32()?).map_err(io::Error::other)?;
        let (text, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| broken("a frame is too short"))?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| broken("a name is not UTF-8"))
    }

    fn time(&mut self) -> io::Result<Time> {
        Ok(Time {
            seconds: i64::from_le_bytes(self.array()?),
            nanoseconds: self.u32()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn all() -> Vec<Frame> {
        let time = Time {
            seconds: -5,
            nanoseconds: 999_999_999,
        };
        let text = || "local_content/Ab/Cd/x".to_owned();
        let entry = Entry {
            path: text(),
            size: u64::MAX,
            time,
        };
        vec![
            Frame::Hello {
                magic: MAGIC.to_owned(),
                owner: Some((10_091, 10_092)),
                idle: 300,
            },
            Frame::Hello {
                magic: String::new(),
                owner: None,
                idle: 0,
            },
            Frame::List {
                kinds: vec![text(), text()],
            },
            Frame::More { units: 7 },
            Frame::File {
                lane: 3,
                path: text(),
                time,
            },
            Frame::Data {
                lane: 255,
                bytes: vec![1, 2, 3],
            },
            Frame::Data { lane: 0, bytes: vec![] },
            Frame::End { lane: 1 },
            Frame::Drop { lane: 1 },
            Frame::Hash { lane: 1, path: text() },
            Frame::Remove { path: text() },
            Frame::Sync,
            Frame::Bye,
            Frame::Alive,
            Frame::Ready { magic: text() },
            Frame::Unit {
                path: text(),
                files: vec![entry.clone(), entry],
                last: true,
            },
            Frame::Listed,
            Frame::Stored {
                lane: 2,
                size: 1 << 40,
                sha256: [7; 32],
            },
            Frame::Refused { lane: 2, why: text() },
            Frame::Synced,
            Frame::Failed { exit: 74, why: text() },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut stream = Vec::new();
        for frame in all() {
            frame.write(&mut stream).unwrap();
        }
        let mut rest = stream.as_slice();
        for frame in all() {
            assert_eq!(Frame::read(&mut rest).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut rest).unwrap(), None);
    }

    #[test]
    fn no_damage_goes_unseen() {
        for frame in all() {
            let mut stream = Vec::new();
            frame.write(&mut stream).unwrap();
            for at in 0..stream.len() {
                let mut damaged = stream.clone();
                damaged[at] ^= 1;
                assert!(Frame::read(&mut damaged.as_slice()).is_err(), "{frame:?} at {at}");
                let cut = Frame::read(&mut &stream[..at]);
                assert!(if at == 0 { matches!(cut, Ok(None)) } else { cut.is_err() });
            }
        }
    }

    #[test]
    fn anything_else_is_not_a_frame() {
        for text in [
            "Password: ",
            "bash: media-sync: command not found\n",
            "\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(Frame::read(&mut text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
