//! Histories as lines of JSON, and several of them as one.

use crate::{Checker, Event, Report};
use std::io::{BufRead, BufReader, Read, Write};

/// Why a history can't be judged at all.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Reading or writing failed.
    #[error("the history can't be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no event.
    #[error("line {line} is no event: {source}")]
    Line {
        /// Its number, from 1.
        line: u32,
        /// Why.
        source: serde_json::Error,
    },
    /// An event ends before the one above it, or before it begins.
    #[error("line {line} is out of order: lines are sorted by `done`, and `invoke` is not after it")]
    Order {
        /// Its number, from 1.
        line: u32,
    },
    /// More groups than the checker can follow.
    #[error("line {line}: a topic has more than 64 groups; give the run's topics fewer")]
    Groups {
        /// The line that names one more.
        line: u32,
    },
    /// More lines than their numbers have room for.
    #[error("the history has more than 2^32 lines")]
    Long,
}

/// Writes an event as one line.
pub fn write(mut to: impl Write, event: &Event) -> Result<(), HistoryError> {
    let mut line = serde_json::to_vec(event).map_err(std::io::Error::from)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}

/// The events of a history, one by one.
pub struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
    line: u32,
}

impl<R: Read> Lines<R> {
    /// Reads from there.
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, reader), buffer: Vec::new(), line: 0 }
    }

    fn read(&mut self) -> Result<Option<Event>, HistoryError> {
        self.buffer.clear();
        if self.reader.read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        self.line = self.line.checked_add(1).ok_or(HistoryError::Long)?;
        let event = serde_json::from_slice(&self.buffer).map_err(|source| HistoryError::Line { line: self.line, source })?;
        Ok(Some(event))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = Result<Event, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Puts the histories of several processes, each in its order, into one. Of events that end together those of the earlier history come first.
pub fn merge(histories: Vec<impl Read>, mut to: impl Write) -> Result<(), HistoryError> {
    let mut sources: Vec<_> = histories.into_iter().map(Lines::new).collect();
    let mut heads = std::collections::BTreeMap::new();
    for (at, source) in sources.iter_mut().enumerate() {
        if let Some(event) = source.read()? {
            heads.insert((event.done, at), event);
        }
    }
    while let Some(((_, at), event)) = heads.pop_first() {
        write(&mut to, &event)?;
        if let Some(next) = sources[at].read()? {
            heads.insert((next.done, at), next);
        }
    }
    Ok(to.flush()?)
}

/// Judges a written history.
pub fn check(reader: impl Read) -> Result<Report, HistoryError> {
    let mut checker = Checker::default();
    for event in Lines::new(reader) {
        checker.push(&event?)?;
    }
    Ok(checker.finish())
}
