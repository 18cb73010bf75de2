//! The command line: what can be asked for, and what comes out of it.
//!
//! Exit codes: 0 done, 1 the request or the file is wrong, 2 usage (clap's own), 3 the daemon is not there.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing_appender::non_blocking::WorkerGuard;

use crate::control::adopt::command::{AdoptArgs, Ask};
use crate::control::adopt::endpoints::Adopted;
use crate::control::args::{Launch, Vmm};
use crate::control::client::{self, ClientError};
use crate::control::config::{EMBEDDED, File};
use crate::control::identity::Macs;
use crate::control::import::command::ImportArgs;
use crate::control::plan::Plan;
use crate::control::problem::{Problem, Problems, did_you_mean};
use crate::control::render::Drawing;
use crate::control::show::topology::Topology;
use crate::control::{daemon, directory, flows, forwards, host, manual, render, show, uplinks};

/// How long a configuration may be in bytes.
const LONGEST: u64 = 16 << 20;

/// A LAN for virtual machines: VMware-style networks for QEMU and cloud-hypervisor over vhost-user.
#[derive(Debug, Parser)]
#[command(name = "vmlan", version, max_term_width = 100)]
struct Cli {
    /// Say more; twice for everything. RUST_LOG chooses more finely
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run {
        #[command(flatten)]
        source: ConfigArgs,
    },
    /// Check a configuration file and print every problem
    Check {
        /// The file, or - for standard input; without it, the embedded default is checked
        file: Option<PathBuf>,
        /// Do not look whether this machine has the uplinks
        #[arg(long)]
        offline: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the exact arguments to launch a guest
    Args {
        /// The guest's name
        vm: String,
        /// The VMM to launch it with
        #[arg(long, value_enum, default_value_t)]
        vmm: Vmm,
        #[command(flatten)]
        source: ConfigArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show networks, ports, teams and advisories at a glance
    Status(ShowArgs),
    /// Show the ports and their counters
    Ports(ShowArgs),
    /// Show which address is behind which port
    Fdb(ShowArgs),
    /// Show the DHCP leases
    Leases {
        #[command(flatten)]
        show: ShowArgs,
        /// How to print them
        #[arg(long, value_enum, conflicts_with = "json")]
        format: Option<LeaseFormat>,
    },
    /// Show the teams: policies, uplinks, and which port is carried by which uplink
    Teams(ShowArgs),
    /// Show which ports want which multicast group
    Groups(ShowArgs),
    /// Draw what is connected to what: ports, networks, uplinks, and the switches behind them
    Topology {
        /// The network; without it, all are drawn
        network: Option<String>,
        /// How to draw it
        #[arg(long, value_enum, default_value_t, conflicts_with = "json")]
        format: Drawing,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Show what is translated: networks, port forwards, and the flows of guests
    Nat {
        #[command(flatten)]
        filter: flows::Filter,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Show, add or remove port forwards while the daemon runs; what is in the file does not change
    Forward {
        #[command(subcommand)]
        ask: forwards::Ask,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Add or remove an uplink while the daemon runs; what is in the file does not change
    Uplink {
        #[command(subcommand)]
        ask: uplinks::Ask,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Move an adapter's addresses and routes to the host adapter of its network
    ///
    /// The host then takes part in a bridged network as the guests do. Unless --confirm follows in time, everything
    /// is undone, so that nobody locks himself out.
    Adopt {
        #[command(flatten)]
        adopt: AdoptArgs,
        #[command(flatten)]
        show: ShowArgs,
    },
    /// Make a configuration of VMware Workstation's, and report what has no equivalent
    ///
    /// The report goes to standard error, one setting a line: what is different now, what was ignored, what to decide.
    Import {
        #[command(flatten)]
        import: ImportArgs,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Where the configuration comes from.
#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration file; without it, a NAT network vmnet8 and a host-only one vmnet1
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A guest besides those of the file, on vmnet8 unless named
    #[arg(long = "vm", value_name = "NAME[=NETWORK]")]
    vms: Vec<String>,
}

/// Whom to ask, and how to print the answer.
#[derive(Args, Debug)]
struct ShowArgs {
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The daemon's configuration file, to find its control socket
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LeaseFormat {
    /// A table
    Table,
    /// Expiry, MAC, address, name and client identifier, as in dnsmasq's lease file
    Dnsmasq,
}

/// A file whose problems have been printed already.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", self.list, summary(self.count, &self.name))]
struct Unfit {
    name: String,
    list: String,
    count: usize,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "vmlan: {}", chain(&error));
            match error.downcast_ref::<ClientError>() {
                Some(ClientError::Absent(_)) => ExitCode::from(3),
                Some(
                    ClientError::Denied(_)
                    | ClientError::Broken { .. }
                    | ClientError::Refused { .. },
                )
                | None => ExitCode::FAILURE,
            }
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run { source } => {
            let _logging = log(cli.verbose)?;
            let (name, file, mut problems) = source.read()?;
            let plan = planned(&file, &mut problems);
            host::present(&plan, host::adapters(), &mut problems);
            let state_dir = plan.state_dir.clone();
            let plan =
                fit(plan, &name, &problems).inspect_err(|_| daemon::give_back(&state_dir))?;
            for warning in problems.warnings() {
                tracing::warn!("{name}: {warning}");
            }
            daemon::run(plan, &mut io::stdout())?;
        }
        Command::Check {
            file,
            offline,
            json,
        } => return check(file.as_deref(), offline, json),
        Command::Args {
            vm,
            vmm,
            source,
            json,
        } => args(&vm, vmm, source, json)?,
        Command::Status(show) => show.print("/v1/status", render::status)?,
        Command::Ports(show) => {
            show.print("/v1/ports", |ports: &Vec<show::Port>| render::ports(ports))?
        }
        Command::Fdb(show) => show.print("/v1/fdb", |addresses: &Vec<show::Address>| {
            render::fdb(addresses)
        })?,
        Command::Leases { show, format } => {
            show.print("/v1/leases", |leases: &Vec<show::Lease>| match format {
                Some(LeaseFormat::Dnsmasq) => render::dnsmasq(leases),
                Some(LeaseFormat::Table) | None => render::leases(leases),
            })?
        }
        Command::Teams(show) => {
            show.print("/v1/teams", |teams: &Vec<_>| render::team::teams(teams))?
        }
        Command::Groups(show) => show.print("/v1/groups", |groups: &Vec<_>| {
            render::group::groups(groups)
        })?,
        Command::Topology {
            network,
            format,
            show,
        } => show.topology(network.as_deref(), format)?,
        Command::Uplink { ask, show } => {
            let answer = client::post(&show.control_socket()?, ask.endpoint(), &ask)?;
            show.print_answer(&answer, ask.endpoint(), |team| ask.render(team))?;
        }
        Command::Nat { filter, show } => {
            show.print(&filter.endpoint(), render::nat::translation)?
        }
        Command::Forward { ask, show } => show.forward(&ask)?,
        Command::Adopt { adopt, show } => show.adopt(&adopt.ask())?,
        Command::Import { import } => return import.execute(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vmlan", &mut script);
            io::stdout().write_all(&script)?;
        }
        Command::Man => manual::write(Cli::command(), &mut io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

impl ConfigArgs {
    fn read(&self) -> anyhow::Result<(String, File, Problems)> {
        let (name, mut file, mut problems) = read(self.config.as_deref())?;
        for vm in &self.vms {
            file.add_guest(vm, &mut problems);
        }
        Ok((name, file, problems))
    }
}

impl ShowArgs {
    fn print<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let answer = client::get(&self.control_socket()?, endpoint)?;
        self.print_answer(&answer, endpoint, render)
    }

    fn adopt(&self, ask: &Ask) -> anyhow::Result<()> {
        let endpoint = ask.endpoint();
        match ask {
            Ask::Show => self.print(endpoint, |adopted: &Vec<Adopted>| {
                if adopted.is_empty() {
                    return "nothing is adopted".to_owned();
                }
                let lines: Vec<_> = adopted.iter().map(|one| ask.render(one)).collect();
                lines.join("\n")
            }),
            Ask::Adopt(_) | Ask::Confirm | Ask::Undo(_) => {
                let answer = client::post(&self.control_socket()?, endpoint, ask)?;
                self.print_answer(&answer, endpoint, |adopted| ask.render(adopted))
            }
        }
    }

    fn forward(&self, ask: &forwards::Ask) -> anyhow::Result<()> {
        let [list, add, remove] = forwards::ENDPOINTS;
        let socket = self.control_socket()?;
        let (endpoint, answer) = match ask {
            forwards::Ask::List => (list, client::get(&socket, list)?),
            forwards::Ask::Add(args) => (add, client::post(&socket, add, &args.request())?),
            forwards::Ask::Remove(args) => {
                (remove, client::post(&socket, remove, &args.request())?)
            }
        };
        self.print_answer(&answer, endpoint, |rows: &Vec<_>| ask.render(rows))
    }

    fn topology(&self, network: Option<&str>, format: Drawing) -> anyhow::Result<()> {
        let endpoint = "/v1/topology";
        let mut answer = client::get(&self.control_socket()?, endpoint)?;
        if let (Some(network), Ok(whole)) = (network, serde_json::from_slice::<Topology>(&answer)) {
            let part = whole.of(network).with_context(|| {
                let names: Vec<_> = whole.networks().map(|one| &*one.name).collect();
                let hint = match did_you_mean(network, names.iter().copied()) {
                    hint if hint.is_empty() => format!("; there is {}", names.join(", ")),
                    hint => hint,
                };
                format!("cannot draw network {network:?}: there is no such network{hint}")
            })?;
            answer = serde_json::to_vec_pretty(&part)?.into();
        }
        self.print_answer(&answer, endpoint, |topology| format.draw(topology))
    }

    fn print_answer<T: DeserializeOwned>(
        &self,
        answer: &[u8],
        endpoint: &str,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let unreadable = || {
            format!(
                "cannot read the daemon's answer to {endpoint}: is it of another version than {}?",
                env!("CARGO_PKG_VERSION")
            )
        };
        if self.json {
            return print(
                std::str::from_utf8(answer)
                    .with_context(unreadable)?
                    .trim_end(),
            );
        }
        let value = serde_json::from_slice(answer).with_context(unreadable)?;
        match render(&value) {
            text if text.is_empty() => Ok(()),
            text => print(&text),
        }
    }

    fn control_socket(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let (name, file, mut problems) = read(self.config.as_deref())?;
        Ok(understood(&name, &file, &mut problems)?.control_socket())
    }
}

fn check(path: Option<&Path>, offline: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let (name, file, mut problems) = read(path)?;
    let plan = planned(&file, &mut problems);
    if !offline {
        host::present(&plan, host::adapters(), &mut problems);
    }
    let (errors, warnings) = (problems.errors(), problems.warnings());
    if as_json {
        let report = json!({ "file": name, "problems": errors, "warnings": warnings });
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        let mut text = listed(&name, &problems);
        text += &match errors.len() {
            0 => format!(
                "{name} is in order: {}, {}",
                counted(plan.networks.len(), "network"),
                counted(plan.vms.len(), "VM")
            ),
            count => summary(count, &name),
        };
        print(&text)?;
    }
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn args(name: &str, vmm: Vmm, mut source: ConfigArgs, as_json: bool) -> anyhow::Result<()> {
    // Without a file, a guest exists only because `run --vm` named it, so naming it here is enough.
    let named = source
        .vms
        .iter()
        .any(|vm| vm.split('=').next() == Some(name));
    let assumed = source.config.is_none() && !named;
    if assumed {
        source.vms.push(name.to_owned());
    }
    let (file_name, file, mut problems) = source.read()?;
    let plan = understood(&file_name, &file, &mut problems)?;
    let vm = plan.find_vm(name).with_context(|| {
        let hint = did_you_mean(name, plan.vms.iter().map(|vm| vm.name.as_str()));
        format!("there is no VM {name:?} in {file_name}{hint}")
    })?;
    let launch = Launch::new(&plan, vm, vmm, &Macs::load(&plan)?);
    if assumed {
        writeln!(
            io::stderr(),
            "note: no --config: these are for a daemon that was run with --vm {name}"
        )?;
    }
    if as_json {
        return print(&serde_json::to_string_pretty(&launch)?);
    }
    print(&launch.text())?;
    writeln!(io::stderr(), "note: {}", launch.note)?;
    Ok(())
}

/// Reads a configuration file, the embedded default where none is named.
fn read(path: Option<&Path>) -> anyhow::Result<(String, File, Problems)> {
    let (name, text) = match path {
        None => ("the embedded default".to_owned(), EMBEDDED.to_owned()),
        Some(path) if path == Path::new("-") => {
            let text = text(io::stdin().lock())
                .context("cannot read the configuration from standard input")?;
            ("standard input".to_owned(), text)
        }
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::File::open(path)
                .map_err(anyhow::Error::from)
                .and_then(text)
                .with_context(|| format!("cannot read the configuration file {name}"))?;
            (name, text)
        }
    };
    let mut problems = Problems::default();
    let file = File::read(&text, &mut problems);
    Ok((name, file, problems))
}

/// Reads a text, and no more of it than a configuration may have.
fn text(source: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    source.take(LONGEST + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(
        bytes.len() as u64 <= LONGEST,
        "it has more than {} MiB, and is hardly a configuration",
        LONGEST >> 20
    );
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!(
            "it is not text (UTF-8): byte {} of the file, on line {line}, is {:#04x}",
            at + 1,
            bytes[at]
        )
    })
}

fn planned(file: &File, problems: &mut Problems) -> Plan {
    Plan::new(
        file,
        &directory::default_runtime(),
        &directory::default_state(),
        problems,
    )
}

fn understood(name: &str, file: &File, problems: &mut Problems) -> anyhow::Result<Plan> {
    let plan = planned(file, problems);
    fit(plan, name, problems)
}

/// Returns the plan, if nothing is wrong with it.
fn fit(plan: Plan, name: &str, problems: &Problems) -> anyhow::Result<Plan> {
    if problems.is_empty() {
        return Ok(plan);
    }
    let errors = problems.errors();
    let count = errors.len();
    let name = if errors.iter().all(|problem| problem.path.starts_with("--")) {
        "the command line"
    } else {
        name
    };
    Err(Unfit {
        name: name.to_owned(),
        list: format!("cannot use {name}: because\n{}", listed(name, problems)),
        count,
    }
    .into())
}

/// Every problem and warning on a line of its own.
fn listed(name: &str, problems: &Problems) -> String {
    let place = |problem: &Problem| match problem.line {
        Some(line) => format!("{name}:{line}: "),
        // What an option of the command says is in no file.
        None if problem.path.starts_with("--") => String::new(),
        None => format!("{name}: "),
    };
    let errors = problems.errors();
    let warnings = problems.warnings();
    let errors = errors
        .iter()
        .map(|problem| format!("{}{problem}\n", place(problem)));
    let warnings = warnings
        .iter()
        .map(|problem| format!("{}warning: {problem}\n", place(problem)));
    errors.chain(warnings).collect()
}

fn summary(count: usize, name: &str) -> String {
    format!("{} in {name}", counted(count, "problem"))
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// An error and its causes, each once: many say what caused them in their own sentence.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |text, cause| {
            let cause = cause.to_string();
            if text.contains(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        })
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush())?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Starts to log to standard error, until the guard is dropped.
///
/// Lines go through a thread of their own and are lost rather than waited for: a reader that lags must not hold up
/// whoever has something to say, and least of all a worker.
fn log(verbose: u8) -> anyhow::Result<WorkerGuard> {
    use tracing_subscriber::filter::EnvFilter;
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let ansi = io::stderr().is_terminal();
    let (stderr, guard) = tracing_appender::non_blocking(io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(ansi)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("cannot log")?;
    tracing_log::LogTracer::init().context("cannot log")?;
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let source = io::Error::other("no space");
        let path = PathBuf::from("/x");
        let error = directory::DirectoryError::Create {
            path,
            key: "state_dir",
            source,
        };
        let error = anyhow::Error::from(error).context("cannot start");
        let text = "cannot start: cannot create the directory /x: no space; set daemon.state_dir to one that you may write to";
        assert_eq!(chain(&error), text);
    }

    #[test]
    fn a_configuration_is_text_of_some_size() {
        assert_eq!(text(&b"a = 1"[..]).unwrap(), "a = 1");
        assert_eq!(
            text(&b"a = 1\nb = \"\xff\"\n"[..]).unwrap_err().to_string(),
            "it is not text (UTF-8): byte 12 of the file, on line 2, is 0xff"
        );
        assert!(text(io::repeat(b' ').take(LONGEST)).is_ok());
        let error = text(io::repeat(0)).unwrap_err().to_string();
        assert!(error.starts_with("it has more than 16 MiB"), "{error}");
    }

    #[test]
    fn the_manual_has_every_command_and_flag() {
        let mut page = Vec::new();
        manual::write(Cli::command(), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        for word in [
            "VMLAN RUN",
            "VMLAN LEASES",
            "VMLAN ADOPT",
            "VMLAN IMPORT",
            "VMLAN UPLINK ADD",
            "VMLAN NAT",
            "VMLAN FORWARD ADD",
            "--balance",
            "--standby",
            "--confirm",
            "--config",
            "--format",
            "--socket",
            "dnsmasq",
        ] {
            assert!(page.contains(word), "{word} is missing in\n{page}");
        }
        assert!(
            !page.contains("vmlan-adopt(1)"),
            "there is one page: {page}"
        );
    }

    #[test]
    fn the_embedded_default_is_in_order_and_needs_no_privilege() {
        let (_, mut file, mut problems) = read(None).unwrap();
        file.add_guest("web1", &mut problems);
        let plan = planned(&file, &mut problems);
        assert_eq!(problems.errors(), []);
        let adapters = plan.networks.iter();
        let mut adapters = adapters.filter_map(|network| network.host_adapter.as_deref());
        assert_eq!(adapters.next(), None);
        assert_eq!(plan.vms[0].network, "vmnet8");
    }
}
