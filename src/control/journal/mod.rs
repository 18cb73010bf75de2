//! The lease file: what the DHCP servers promised, on disk before anyone relies on it.
//!
//! # Theory of operation
//!
//! The engine hands records over through a bounded queue ([`Sender`]) and never waits. A thread takes all that are
//! there, writes them as one batch of lines to the end of `leases`, asks the disk once, and then settles each record in
//! its order: the frame that promises the lease leaves only now. When the disk refuses, the batch is cut off the
//! file and settled as not written; guests then get no answer, and ask again. The file is written anew when the daemon
//! starts and when it has grown far beyond what counts, to a second file that takes the place of the first. When that
//! fails at the start, the daemon goes on with the old file: a disk that is full must not take away the network.
//!
//! A line without an end (the machine stopped while it was written) and lines that make no sense are skipped with a
//! warning; for the latter a copy of the file is kept as `leases.bad`. A file whose first line makes no sense is moved
//! there as a whole: clients that come back keep their addresses, for a free address that is asked for is given.
//! Records whose end is long past are left behind at the next start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, TrySendError};

use crate::control::directory;
use crate::engine::Durable;
use crate::net::dhcp::Record;

pub mod line;

/// How many records may wait to be written.
const QUEUE: usize = 1_024;
/// For how long an address is remembered for a client that is gone.
const REMEMBERED: Duration = Duration::from_secs(90 * 86_400);
/// How many lines the file may have beyond four times those that count.
const SLACK: usize = 10_000;
/// How often a failing disk is complained about.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Why the lease file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read.
    #[error(
        "cannot read the leases in {path}: {source}; mend that, or set daemon.state_dir to another directory"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is of another version.
    #[error(
        "cannot read the leases in {path}: it begins with {found:?}, not {:?}; it was written by another version: run that one, or set daemon.state_dir to another directory",
        line::HEADER
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The first line.
        found: String,
    },
    /// It cannot be written.
    #[error(
        "cannot write the leases to {path}: {source}; free space, or set daemon.state_dir to another directory"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The newest record of each address of each network.
type Live = BTreeMap<(String, Ipv4Addr), Record>;

/// The lease file, read and written anew; not yet at work.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
    live: Live,
    file: Option<File>,
    /// How long the file is as far as it is good.
    length: u64,
    lines: usize,
}

/// The side of the journal that the engine has.
#[derive(Debug)]
pub struct Sender(crossbeam_channel::Sender<Entry>);

/// The thread that writes, which ends when the [`Sender`] is gone and all is written.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

/// What a lease file holds.
#[derive(Debug, Default)]
struct Content {
    live: Live,
    /// How long the file is up to the end of the last whole line.
    whole: usize,
    /// How many whole lines there are after the first.
    lines: usize,
    /// Whether there are whole lines that make no sense.
    unreadable: bool,
}

#[derive(Debug)]
struct Entry {
    network: String,
    ticket: u64,
    record: Record,
}

impl Leases {
    /// Reads the lease file of a state directory, and writes it anew where that can be done.
    ///
    /// # Errors
    ///
    /// It cannot be read, is of another version, or is not there and cannot be written. Lines that make no sense are
    /// no error.
    pub fn open(state: &Path, now: SystemTime) -> Result<Self, JournalError> {
        let path = state.join("leases");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        let bad = state.join("leases.bad");
        let mut content = match read(&bytes, &path)? {
            Some(content) => content,
            None => {
                if let Err(source) = std::fs::rename(&path, &bad) {
                    return Err(JournalError::Write { path: bad, source });
                }
                tracing::warn!(path = %path.display(), kept = %bad.display(), "the lease file is damaged and set aside; clients keep their addresses where they ask for them");
                Content::default()
            }
        };
        content
            .live
            .retain(|_, record| record.ends + REMEMBERED > now);
        let mut leases = Self {
            path,
            live: content.live,
            file: None,
            length: 0,
            lines: 0,
        };
        let kept = if content.unreadable {
            directory::replace(&bad, &bytes, 0o640)
        } else {
            Ok(())
        };
        match kept.and_then(|()| leases.compact()) {
            Ok(()) => Ok(leases),
            Err(error) if content.whole > 0 => {
                tracing::warn!(path = %leases.path.display(), %error, "the lease file cannot be written anew and is used as it is; free space, or set daemon.state_dir");
                leases.lines = content.lines;
                if let Err(error) = leases.resume(content.whole as u64) {
                    tracing::warn!(path = %leases.path.display(), %error, "leases cannot be written; guests get none until they can");
                }
                Ok(leases)
            }
            Err(source) => Err(JournalError::Write {
                path: leases.path,
                source,
            }),
        }
    }

    /// Goes on at the end of the last whole line of the file that is there.
    fn resume(&mut self, whole: u64) -> io::Result<()> {
        let mut file = File::options().write(true).open(&self.path)?;
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        self.file = Some(file);
        self.length = whole;
        Ok(())
    }

    /// Returns the records by network.
    pub fn by_network(&self) -> BTreeMap<String, Vec<Record>> {
        let mut networks: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for ((network, _), record) in &self.live {
            networks
                .entry(network.clone())
                .or_default()
                .push(record.clone());
        }
        networks
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(self, durable: Durable) -> io::Result<(Sender, Writer)> {
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread = thread.spawn(move || self.work(&receiver, &durable))?;
        Ok((Sender(sender), Writer(thread)))
    }

    fn work(mut self, receiver: &Receiver<Entry>, durable: &Durable) {
        let mut complained: Option<Instant> = None;
        while let Ok(first) = receiver.recv() {
            let batch: Vec<Entry> = std::iter::once(first)
                .chain(receiver.try_iter().take(QUEUE))
                .collect();
            let result = self.append(&batch);
            for entry in &batch {
                durable.settle(entry.ticket, result.is_ok());
            }
            match result {
                Ok(()) => self.tidy(),
                Err(error) if complained.is_none_or(|last| last.elapsed() >= COMPLAINT) => {
                    complained = Some(Instant::now());
                    tracing::error!(path = %self.path.display(), %error, "leases cannot be written; guests get none until they can");
                }
                Err(_) => {}
            }
        }
    }

    /// Writes a batch to the end of the file, wholly or not at all.
    fn append(&mut self, batch: &[Entry]) -> io::Result<()> {
        if self.file.is_none() {
            self.compact()?;
        }
        let text: String = batch
            .iter()
            .map(|entry| line::render(&entry.network, &entry.record))
            .collect();
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            if file
                .set_len(self.length)
                .and_then(|()| file.seek(SeekFrom::Start(self.length)))
                .is_err()
            {
                self.file = None;
            }
            return Err(error);
        }
        if let Err(error) = file.sync_data() {
            // What the disk holds is unknown from here on: only a new file is certain.
            self.file = None;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.lines += batch.len();
        for Entry {
            network, record, ..
        } in batch
        {
            self.live
                .insert((network.clone(), record.ip), record.clone());
        }
        Ok(())
    }

    fn tidy(&mut self) {
        if self.lines <= 4 * self.live.len() + SLACK {
            return;
        }
        if let Err(error) = self.compact() {
            // The old file is as good as it was; the next attempt is after as many lines again.
            self.lines = 0;
            tracing::warn!(path = %self.path.display(), %error, "the lease file cannot be written anew");
        }
    }

    /// Writes the records that count to a new file, which takes the place of the old.
    fn compact(&mut self) -> io::Result<()> {
        let mut text = format!("{}\n", line::HEADER);
        text.extend(
            self.live
                .iter()
                .map(|((network, _), record)| line::render(network, record)),
        );
        self.file = Some(directory::replace_with(&self.path, 0o640, |file| {
            file.write_all(text.as_bytes())
        })?);
        self.length = text.len() as u64;
        self.lines = self.live.len();
        Ok(())
    }
}

impl crate::engine::Journal for Sender {
    fn append(&mut self, network: &str, ticket: u64, record: Record) -> bool {
        match self.0.try_send(Entry {
            network: network.to_owned(),
            ticket,
            record,
        }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Writer {
    /// Waits until all is written. The [`Sender`] must be gone, or this never returns.
    pub fn finish(self) {
        if self.0.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

/// Reads a lease file; returns nothing if it is none.
fn read(bytes: &[u8], path: &Path) -> Result<Option<Content>, JournalError> {
    let text = String::from_utf8_lossy(bytes);
    let mut content = Content {
        whole: bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1),
        ..Content::default()
    };
    let mut lines = text.split_inclusive('\n');
    match lines.next() {
        None => return Ok(Some(content)),
        Some(first) if first.trim_end() == line::HEADER => {}
        Some(first) if first.starts_with(line::KIND) => {
            let found = first
                .chars()
                .take(40)
                .collect::<String>()
                .trim_end()
                .to_owned();
            return Err(JournalError::Version {
                path: path.to_owned(),
                found,
            });
        }
        Some(_) => return Ok(None),
    }
    for (number, text) in (2_usize..).zip(lines) {
        let Some(whole) = text.strip_suffix('\n') else {
            tracing::warn!(path = %path.display(), number, "the last lease is cut off and skipped");
            break;
        };
        content.lines += 1;
        if let Some((network, record)) = line::parse(whole) {
            content.live.insert((network, record.ip), record);
        } else {
            content.unreadable = true;
            tracing::warn!(path = %path.display(), number, "a lease cannot be read and is skipped");
        }
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests;
