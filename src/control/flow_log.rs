//! The connection log: the beginning and the end of flows, a line each (after RFC 6888, REQ-12).
//!
//! Workers put events into a queue that has a limit and never wait; a thread writes them to files, or to the journal of
//! systemd by its own protocol. What does not fit into the queue, or cannot be written, is counted, and the log says how much is missing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender};

use crate::control::config::nat::Log;
use crate::control::identity::Macs;
use crate::control::plan::Plan;
use crate::control::timestamp;
use crate::engine::FlowLog;
use crate::net::nat::Event;
use crate::wire::ethernet::MacAddr;

/// How many events wait to be written, at most.
const QUEUE: usize = 16_384;
/// How many of them are written at once, at most.
const BATCH: usize = 1_024;
/// How long a full queue is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where the journal takes messages.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error(
        "cannot write the connection log {path}, as network.{network}.nat.log asks for: {source}; make its directory, or let the daemon's user write there"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The network.
        network: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The journal is not there.
    #[error(
        "cannot write to the journal of systemd, as network.{network}.nat.log asks for: {source}; name a file instead"
    )]
    Journal {
        /// The network.
        network: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start to write the connection log: {0}")]
    Thread(#[from] io::Error),
}

/// The logs of all networks that ask for one, open.
#[derive(Debug)]
pub struct Logs {
    sinks: Vec<Sink>,
    /// Which of them is a network's.
    of: HashMap<String, usize>,
    vms: BTreeMap<MacAddr, String>,
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    File { path: PathBuf, file: File },
    Journal(UnixDatagram),
}

enum Message {
    Event {
        sink: usize,
        network: Arc<str>,
        at: SystemTime,
        event: Event,
    },
    /// Somebody has moved the files away.
    Reopen,
    /// There is nothing more to write.
    End,
}

/// Takes events from workers.
#[derive(Debug)]
pub struct Queue {
    messages: Sender<Message>,
    of: HashMap<String, (usize, Arc<str>)>,
    lost: Arc<Vec<AtomicU64>>,
}

/// The thread that writes.
#[derive(Debug)]
pub struct Writer {
    messages: Sender<Message>,
    thread: JoinHandle<()>,
    files: bool,
}

impl Logs {
    /// Opens the logs that a plan asks for; networks that name the same file share it.
    ///
    /// # Errors
    ///
    /// One cannot be opened.
    pub fn open(plan: &Plan, macs: &Macs) -> Result<Self, LogError> {
        let mut logs = Self {
            sinks: Vec::new(),
            of: HashMap::new(),
            vms: BTreeMap::new(),
        };
        for network in &plan.networks {
            let Some(nat) = &network.nat else { continue };
            let path = match &nat.log {
                Log::Off => continue,
                Log::Journal => None,
                Log::File(path) => Some(path),
            };
            let known = logs.sinks.iter().position(|sink| match (sink, path) {
                (Sink::File { path: known, .. }, Some(path)) => known == path,
                (Sink::Journal(_), None) => true,
                (Sink::File { .. }, None) | (Sink::Journal(_), Some(_)) => false,
            });
            let index = match known {
                Some(index) => index,
                None => {
                    logs.sinks.push(Sink::open(path, &network.name)?);
                    logs.sinks.len() - 1
                }
            };
            logs.of.insert(network.name.clone(), index);
        }
        let vms = plan.vms.iter();
        logs.vms = vms.map(|vm| (macs.vm(&vm.name), vm.name.clone())).collect();
        Ok(logs)
    }

    /// Starts to write, and returns what takes events; nothing is started where nothing is to be written.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(self) -> Result<Option<(Queue, Writer)>, LogError> {
        if self.sinks.is_empty() {
            return Ok(None);
        }
        let (messages, receiver) = crossbeam_channel::bounded(QUEUE);
        let lost: Arc<Vec<AtomicU64>> =
            Arc::new(self.sinks.iter().map(|_| AtomicU64::new(0)).collect());
        let of = self.of.iter();
        let queue = Queue {
            messages: messages.clone(),
            of: of
                .map(|(name, sink)| (name.clone(), (*sink, Arc::from(name.as_str()))))
                .collect(),
            lost: Arc::clone(&lost),
        };
        let files = self
            .sinks
            .iter()
            .any(|sink| matches!(sink, Sink::File { .. }));
        let thread = std::thread::Builder::new().name("flow log".to_owned());
        let thread = thread.spawn(move || self.run(&receiver, &lost))?;
        let writer = Writer {
            messages,
            thread,
            files,
        };
        Ok(Some((queue, writer)))
    }

    fn run(mut self, messages: &Receiver<Message>, lost: &[AtomicU64]) {
        let mut failing = vec![false; self.sinks.len()];
        let mut texts = vec![String::new(); self.sinks.len()];
        while let Ok(first) = messages.recv() {
            let batch = std::iter::once(first)
                .chain(messages.try_iter())
                .take(BATCH);
            let mut counts = vec![0_u64; self.sinks.len()];
            let (mut reopen, mut end) = (false, false);
            for message in batch {
                match message {
                    Message::Event {
                        sink,
                        network,
                        at,
                        event,
                    } => {
                        let vm = event.mac.and_then(|mac| self.vms.get(&mac));
                        let vm = vm.map(String::as_str);
                        match &self.sinks[sink] {
                            Sink::File { .. } => {
                                texts[sink] += &line(&network, vm, at, &event);
                                counts[sink] += 1;
                            }
                            Sink::Journal(socket) => {
                                if socket.send(entry(&network, vm, &event).as_bytes()).is_err() {
                                    lost[sink].fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                    Message::Reopen => reopen = true,
                    Message::End => end = true,
                }
            }
            for (index, sink) in self.sinks.iter_mut().enumerate() {
                let missing = lost[index].swap(0, Ordering::Relaxed);
                let text = &mut texts[index];
                if missing > 0 {
                    *text += &format!(
                        "{} event=lost count={missing}\n",
                        timestamp::render(SystemTime::now())
                    );
                    tracing::warn!(events = missing, "the connection log is not complete");
                }
                let written = sink.write(text);
                text.clear();
                match written {
                    Ok(()) => failing[index] = false,
                    Err(error) => {
                        lost[index].fetch_add(missing + counts[index], Ordering::Relaxed);
                        if !std::mem::replace(&mut failing[index], true) {
                            tracing::warn!(%error, "the connection log cannot be written");
                        }
                    }
                }
                if reopen {
                    sink.reopen();
                }
            }
            if end {
                return;
            }
        }
    }
}

impl Sink {
    fn open(path: Option<&PathBuf>, network: &str) -> Result<Self, LogError> {
        let network = network.to_owned();
        match path {
            Some(path) => append(path)
                .map(|file| Self::File {
                    path: path.clone(),
                    file,
                })
                .map_err(|source| LogError::File {
                    path: path.clone(),
                    network,
                    source,
                }),
            None => {
                let connect = || {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(JOURNAL)?;
                    Ok(Self::Journal(socket))
                };
                connect().map_err(|source| LogError::Journal { network, source })
            }
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.write_all(text.as_bytes()),
            // Its entries have been sent; it is told of those that are missing by the daemon's own log.
            Self::Journal(_) => Ok(()),
        }
    }

    /// Opens the file anew, in place of one that was moved away. Where that fails the old one is written on.
    fn reopen(&mut self) {
        let Self::File { path, file } = self else {
            return;
        };
        match append(path) {
            Ok(new) => *file = new,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the connection log cannot be opened anew")
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

impl FlowLog for Queue {
    fn note(&mut self, network: &str, event: &Event) {
        let Some((sink, network)) = self.of.get(network) else {
            return;
        };
        let message = Message::Event {
            sink: *sink,
            network: Arc::clone(network),
            at: SystemTime::now(),
            event: *event,
        };
        if self.messages.try_send(message).is_err() {
            self.lost[*sink].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Whether there are files, which may be moved away.
    pub const fn has_files(&self) -> bool {
        self.files
    }

    /// Returns what has the files opened anew.
    pub fn reopener(&self) -> impl Fn() + Send + 'static {
        let messages = self.messages.clone();
        move || {
            // A queue that is full is one whose reopening can be asked for again.
            if messages.try_send(Message::Reopen).is_err() {
                tracing::warn!(
                    "the connection log is busy, and not opened anew; send SIGHUP again"
                );
            }
        }
    }

    /// Waits until all that was noted is written. The engine must have stopped.
    pub fn finish(self) {
        // Not for ever: a disk that hangs must not keep the daemon from ending.
        if self.messages.send_timeout(Message::End, PATIENCE).is_err() {
            tracing::warn!("the connection log is not complete: it cannot be written any more");
            return;
        }
        // A panic of the thread has been reported by the thread.
        let _ = self.thread.join();
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What is said of an event, with the names of the fields in a file.
fn fields(network: &str, vm: Option<&str>, event: &Event) -> Vec<(&'static str, String)> {
    let created = if event.created { "create" } else { "delete" };
    let mut fields = vec![
        ("network", network.to_owned()),
        ("event", created.to_owned()),
        ("protocol", event.protocol.name().to_owned()),
        ("originator", event.originator.name().to_owned()),
        ("vm", or_dash(vm)),
        ("mac", or_dash(event.mac)),
        ("inside", event.inside.to_string()),
        ("outside", or_dash(event.outside)),
        ("remote", or_dash(event.remote)),
    ];
    if !event.created {
        fields.push(("sent", event.sent.to_string()));
        fields.push(("received", event.received.to_string()));
    }
    fields
}

/// Writes an event as a line of a file.
fn line(network: &str, vm: Option<&str>, at: SystemTime, event: &Event) -> String {
    let fields = fields(network, vm, event).into_iter();
    let fields = fields.map(|(key, value)| format!(" {key}={value}"));
    format!("{}{}\n", timestamp::render(at), fields.collect::<String>())
}

/// Writes an event as an entry of the journal: none of its values has more than one line.
fn entry(network: &str, vm: Option<&str>, event: &Event) -> String {
    let fields = fields(network, vm, event);
    let words = fields.iter().map(|(key, value)| format!(" {key}={value}"));
    let message = words.collect::<String>();
    let own = fields
        .iter()
        .map(|(key, value)| format!("VMLAN_{}={value}\n", key.to_ascii_uppercase()));
    format!(
        "MESSAGE=flow{message}\nPRIORITY=6\nSYSLOG_IDENTIFIER=vmlan\n{}",
        own.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config;
    use crate::control::problem::Problems;
    use crate::net::nat::{Originator, Protocol};

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    fn event(created: bool) -> Event {
        Event {
            created,
            protocol: Protocol::Tcp,
            originator: Originator::Guest,
            mac: Some(MAC),
            inside: "192.168.88.128:40000".parse().unwrap(),
            outside: None,
            remote: Some("198.51.100.1:443".parse().unwrap()),
            sent: 100,
            received: 2_000,
        }
    }

    fn plan(dir: &Path, networks: &str) -> Plan {
        let text = format!("{networks}[vm.web1]\nnetwork = \"n\"\nmac = \"52:54:00:00:00:01\"\n");
        let mut problems = Problems::default();
        let file = config::File::read(&text, &mut problems);
        let plan = Plan::new(&file, Path::new("/run/vmlan"), dir, &mut problems);
        assert_eq!(problems.errors(), []);
        plan
    }

    fn nat(name: &str, subnet: &str, log: &Path) -> String {
        format!("[network.{name}]\nmode = \"nat\"\nsubnet = \"{subnet}\"\nnat.log = {log:?}\n")
    }

    fn open(plan: &Plan) -> Result<Logs, LogError> {
        Logs::open(plan, &Macs::load(plan).unwrap())
    }

    #[test]
    fn an_event_is_a_line_with_all_that_is_known() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_752_485_400);
        assert_eq!(
            line("vmnet8", Some("web1"), at, &event(true)),
            "2025-07-14T09:30:00Z network=vmnet8 event=create protocol=tcp originator=guest vm=web1 \
             mac=52:54:00:00:00:01 inside=192.168.88.128:40000 outside=- remote=198.51.100.1:443\n"
        );
        let ended = Event {
            mac: None,
            remote: None,
            originator: Originator::Forward,
            ..event(false)
        };
        assert_eq!(
            line("vmnet8", None, at, &ended),
            "2025-07-14T09:30:00Z network=vmnet8 event=delete protocol=tcp originator=forward vm=- \
             mac=- inside=192.168.88.128:40000 outside=- remote=- sent=100 received=2000\n"
        );
    }

    #[test]
    fn an_entry_of_the_journal_has_a_field_for_each() {
        let entry = entry("vmnet8", Some("web1"), &event(true));
        for field in [
            "MESSAGE=flow network=vmnet8 event=create ",
            "\nPRIORITY=6\n",
            "\nVMLAN_VM=web1\n",
            "\nVMLAN_REMOTE=198.51.100.1:443\n",
        ] {
            assert!(entry.contains(field), "{field} is missing in {entry}");
        }
        assert!(entry.lines().all(|line| line.contains('=')) && entry.ends_with('\n'));
    }

    #[test]
    fn networks_with_one_file_share_it_and_others_write_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.log");
        let networks = nat("n", "10.0.0.0/24", &path)
            + &nat("m", "10.0.1.0/24", &path)
            + "[network.quiet]\nmode = \"nat\"\nsubnet = \"10.0.2.0/24\"\n";
        let (mut log, writer) = open(&plan(dir.path(), &networks))
            .unwrap()
            .start()
            .unwrap()
            .unwrap();
        for network in ["n", "m", "quiet"] {
            log.note(network, &event(true));
        }
        drop(log);
        assert!(writer.has_files());
        writer.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains(" network=n ") && lines[0].contains(" vm=web1 "),
            "{text}"
        );
        assert!(lines[1].contains(" network=m "), "{text}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o137, 0, "others cannot read it");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.log");
        let plan = plan(dir.path(), &nat("n", "10.0.0.0/24", &path));
        let (mut log, writer) = open(&plan).unwrap().start().unwrap().unwrap();
        let moved = dir.path().join("nat.log.1");
        std::fs::rename(&path, &moved).unwrap();
        log.note("n", &event(true));
        let reopen = writer.reopener();
        reopen();
        drop(reopen);
        // What comes after the reopening may be written with it, so wait until it is done.
        while !path.exists() {
            std::thread::yield_now();
        }
        log.note("n", &event(false));
        drop(log);
        writer.finish();
        let (old, new) = (
            std::fs::read_to_string(moved).unwrap(),
            std::fs::read_to_string(path).unwrap(),
        );
        assert!(
            old.contains("event=create") && new.contains("event=delete"),
            "{old}{new}"
        );
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_counted_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.log");
        let logs = open(&plan(dir.path(), &nat("n", "10.0.0.0/24", &path))).unwrap();
        let (messages, receiver) = crossbeam_channel::bounded(1);
        let lost = Arc::new(vec![AtomicU64::new(0)]);
        let mut queue = Queue {
            messages,
            of: HashMap::from([("n".to_owned(), (0, Arc::from("n")))]),
            lost: Arc::clone(&lost),
        };
        for _ in 0..3 {
            queue.note("n", &event(true));
        }
        drop(queue);
        logs.run(&receiver, &lost);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with(" event=lost count=2\n"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_had_is_an_error_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(&plan(
            dir.path(),
            &nat("n", "10.0.0.0/24", Path::new("/nowhere/nat.log")),
        ))
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "cannot write the connection log /nowhere/nat.log, as network.n.nat.log asks for: "
            ),
            "{text}"
        );
        assert!(
            Logs::start(open(&plan(dir.path(), "[network.n]\nmode = \"isolated\"\n")).unwrap())
                .unwrap()
                .is_none()
        );
    }
}
