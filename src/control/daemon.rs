//! `vmlan run`: the daemon in the foreground, from the plan to the last lease.
//!
//! The main thread is the control thread: it serves the control socket and waits for signals. What was made on the way up is
//! unmade in the opposite order, also when something on the way fails.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::control::adopt::kernel::Kernel;
use crate::control::adopt::{self, Adopter, endpoints};
use crate::control::api::{Socket, Source};
use crate::control::args::{Launch, Vmm};
use crate::control::directory::Directory;
use crate::control::flow_log::Logs;
use crate::control::host;
use crate::control::identity::Macs;
use crate::control::journal::Leases;
use crate::control::metrics::Exporter;
use crate::control::plan::Plan;
use crate::control::prefixes::Prefixes;
use crate::engine::{Durable, Engine};
use crate::net::Now;
use crate::ports::guest::Role;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Something could not be had, and nothing was left behind; or the control socket broke.
pub fn run(plan: Plan, stdout: &mut impl Write) -> anyhow::Result<()> {
    let start = "cannot start the daemon";
    if let Err(error) = crate::ports::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays low, and with it the number of guests");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(start)?;
    // From here on a signal is not lost, and does not end the process half-way up.
    let mut signals = {
        let _context = runtime.enter();
        Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        }
    };
    let runtime_dir = Directory::open(&plan.runtime_dir, 0o755, "runtime_dir")
        .inspect_err(|_| give_back(&plan.state_dir))
        .context(start)?;
    let same = runtime_dir.is_not(&plan.state_dir, "state_dir");
    same.context(start)?;
    let _state_dir = Directory::open(&plan.state_dir, 0o755, "state_dir").context(start)?;
    let mut adopter = Adopter::open(Box::new(Kernel), &plan.state_dir).context(start)?;
    adopter.rest_all(now());
    let macs = Macs::load(&plan).context(start)?;
    macs.save(&plan).context(start)?;
    let prefixes = Prefixes::load(&plan).context(start)?;
    prefixes.save(&plan).context(start)?;
    let leases = Leases::open(&plan.state_dir, SystemTime::now()).context(start)?;
    let control = plan.control_socket();
    let listen = || format!("cannot listen on the control socket {}", control.display());
    let mut socket = Socket::bind(&control).with_context(listen)?;
    let exporter = plan.metrics.map(|address| {
        let listen = || format!("cannot serve metrics at {address}: choose another address for daemon.metrics, or leave it out");
        Exporter::bind(address).with_context(listen)
    });
    let exporter = exporter.transpose().context(start)?;
    let spec = plan.spec(&macs, &prefixes, &leases.by_network());
    let flow_log = Logs::open(&plan, &macs)
        .and_then(Logs::start)
        .context(start)?;
    let durable = Durable::new().context(start)?;
    let (sender, writer) = leases.start(durable.clone()).context(start)?;
    for (network, text) in host::clashes(&plan, &host::nets()) {
        tracing::warn!(network, "{text}");
    }
    let engine = match Engine::start(spec, Box::new(sender), &durable) {
        Ok(engine) => engine,
        Err(error) => {
            writer.finish();
            return Err(error).context(start);
        }
    };
    let flow_writer = flow_log.map(|(log, writer)| {
        engine.log_flows(Box::new(log));
        writer
    });
    adopter.resume(&plan, now());
    let source = Arc::new(Source {
        plan,
        macs,
        prefixes,
        engine,
        adopter: adopt::Shared::new(adopter),
        since: Instant::now(),
    });
    let result = socket.publish().with_context(listen).and_then(|()| {
        announce(&source.plan, &source.macs, stdout)?;
        notify(&[NotifyState::Ready]);
        tracing::info!(socket = %control.display(), networks = source.plan.networks.len(), vms = source.plan.vms.len(), "ready");
        runtime.block_on(async {
            tokio::spawn(endpoints::keep_time(Arc::clone(&source)));
            if let Some(exporter) = exporter {
                tokio::spawn(exporter.serve(Arc::clone(&source)));
            }
            if let Some(writer) = flow_writer.as_ref().filter(|writer| writer.has_files()) {
                tokio::spawn(reopen_on(signal(SignalKind::hangup())?, writer.reopener()));
            }
            tokio::select! {
                served = socket.serve(Arc::clone(&source)) => served.with_context(listen),
                name = signals.next() => {
                    tracing::info!(signal = name, "stopping");
                    Ok(())
                }
            }
        })
    });
    notify(&[NotifyState::Stopping]);
    drop(socket);
    // With the runtime go the connections, and with them all other owners of the source.
    drop(runtime);
    let source = Arc::into_inner(source).expect("connections end with the runtime");
    // While the host adapters are still there, so that the host is never without its addresses.
    source.adopter.lock().rest_all(now());
    source.engine.stop();
    writer.finish();
    if let Some(writer) = flow_writer {
        writer.finish();
    }
    result
}

/// Has log files opened anew with every signal: somebody has moved them away.
async fn reopen_on(mut hangup: Signal, reopen: impl Fn()) {
    while hangup.recv().await.is_some() {
        reopen();
    }
}

/// Gives adapters back what a daemon that was killed had adopted, where this one does not even begin.
///
/// A daemon that runs has locked the directory, and keeps what it has.
pub fn give_back(state_dir: &Path) {
    if !Adopter::has_record(state_dir) {
        return;
    }
    let attempt = || -> anyhow::Result<()> {
        let _state_dir = Directory::open(state_dir, 0o755, "state_dir")?;
        Adopter::open(Box::new(Kernel), state_dir)?.rest_all(now());
        Ok(())
    };
    if let Err(error) = attempt() {
        tracing::warn!("addresses that were adopted are not given back: {error}");
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells each VM's socket and arguments, and then that the daemon is ready.
fn announce(plan: &Plan, macs: &Macs, stdout: &mut impl Write) -> anyhow::Result<()> {
    let mut text = String::new();
    for vm in &plan.vms {
        let listens = match vm.role {
            Role::Server => "listens on",
            Role::Client => "connects to",
        };
        let launch = Launch::new(plan, vm, Vmm::Qemu, macs);
        text += &format!(
            "{} ({}) {listens} {}\n  {}\n",
            vm.name,
            vm.network,
            vm.socket.display(),
            launch.text()
        );
    }
    text += "ready\n";
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // Whoever started the daemon does not listen; the guests do not mind.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot say that the daemon is ready"),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not notified");
    }
}
