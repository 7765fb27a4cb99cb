//! Buffered input with look-ahead. Lines may be longer than memory.

use std::io::{BufRead, ErrorKind};

use super::PlainError;

/// How many bytes are read at a time.
const CHUNK: usize = 1 << 16;

pub(super) struct Input<'a> {
    reader: &'a mut dyn BufRead,
    buffer: Vec<u8>,
    at: usize,
    line: u64,
    at_line_start: bool,
    ended: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        Self {
            reader,
            buffer: Vec::with_capacity(2 * CHUNK),
            at: 0,
            line: 1,
            at_line_start: true,
            ended: false,
        }
    }

    /// The number of the current line, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// The byte at this distance from the current position; `None` at the end of the input.
    #[inline]
    pub(super) fn peek(&mut self, ahead: usize) -> Result<Option<u8>, PlainError> {
        while self.at + ahead >= self.buffer.len() {
            if !self.fill()? {
                return Ok(None);
            }
        }
        Ok(Some(self.buffer[self.at + ahead]))
    }

    pub(super) fn starts_with(&mut self, wanted: &[u8]) -> Result<bool, PlainError> {
        for (ahead, byte) in wanted.iter().enumerate() {
            if self.peek(ahead)? != Some(*byte) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next `count` bytes, or fewer at the end of the input.
    pub(super) fn ahead(&mut self, count: usize) -> Result<&[u8], PlainError> {
        self.peek(count.saturating_sub(1))?;
        let end = (self.at + count).min(self.buffer.len());
        Ok(&self.buffer[self.at..end])
    }

    /// How many of the buffered bytes satisfy `belongs` in a row. The run may continue beyond the buffer.
    pub(super) fn run(&mut self, belongs: impl Fn(u8) -> bool) -> Result<usize, PlainError> {
        self.peek(0)?;
        let rest = &self.buffer[self.at..];
        Ok(rest.iter().position(|&byte| !belongs(byte)).unwrap_or(rest.len()))
    }

    /// The rest of this line with its line break, or as much of it as is buffered; empty at the end of the input.
    pub(super) fn rest_of_line(&mut self) -> Result<&[u8], PlainError> {
        self.peek(0)?;
        let rest = &self.buffer[self.at..];
        Ok(&rest[..line_length(rest)])
    }

    /// Moves past bytes that were examined.
    #[inline]
    pub(super) fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.buffer.len());
        let mut passed = &self.buffer[self.at..end];
        while !passed.is_empty() {
            let (line, rest) = passed.split_at(line_length(passed));
            self.at_line_start = line.ends_with(b"\n");
            self.line += u64::from(self.at_line_start);
            passed = rest;
        }
        self.at = end;
    }

    /// Reads more into the buffer; `false` at the end of the input.
    fn fill(&mut self) -> Result<bool, PlainError> {
        if self.ended {
            return Ok(false);
        }
        // A small compressed file can expand to more than can be read in hours: allow an interrupt.
        ess_run::stop_if_interrupted().map_err(PlainError::Interrupted)?;
        self.buffer.drain(..self.at);
        self.at = 0;
        let line = self.line;
        let chunk = loop {
            match self.reader.fill_buf() {
                Ok(chunk) => break chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    // A decoder reports invalid or truncated data by these kinds.
                    return Err(match source.kind() {
                        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                            PlainError::Damaged { line, source }
                        }
                        _ => PlainError::Io(source),
                    });
                }
            }
        };
        let chunk = &chunk[..chunk.len().min(CHUNK)];
        if chunk.contains(&0) {
            let what = "a NUL byte follows: this is not UTF-8 text".to_owned();
            return Err(PlainError::Unexpected { line, what });
        }
        let length = chunk.len();
        self.buffer.extend_from_slice(chunk);
        self.reader.consume(length);
        self.ended = length == 0;
        Ok(!self.ended)
    }
}

/// The length up to and including the first line break, or of all bytes if there is none.
fn line_length(mut bytes: &[u8]) -> usize {
    // The `BufRead` of a slice searches faster than an iterator, and cannot fail.
    bytes.skip_until(b'\n').unwrap_or(0)
}
