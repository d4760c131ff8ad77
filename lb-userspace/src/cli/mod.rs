//! What the user types.

pub mod check;
mod choice;
mod detach;
mod drain;
pub mod replay;
pub mod route;
mod run;
mod status;
mod watch;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use lb_common::maps::Capacities;

use crate::{
    admin::socket::{self, Answer, Command},
    config, datapath,
    state::{route::expected, table::TableCache},
};

/// Exit codes that the README promises.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const BAD_CONFIG: u8 = 2;
    pub const NOT_RUNNING: u8 = 3;
    pub const REFUSED: u8 = 4;
}

/// A Layer-4 SIP load balancer on eBPF/XDP.
#[derive(Debug, Parser)]
#[command(name = "sip-lb", version)]
pub struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Attach, balance, probe, serve metrics and the admin socket.
    Run(run::RunArgs),
    /// Validate a configuration and show the expected share of every backend.
    Check {
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Show services, tiers and backends of a running instance.
    Status(status::StatusArgs),
    /// Let a running instance read its configuration again.
    Reload(Instance),
    /// Let a backend take no new dialogs; live ones stay.
    Drain(drain::DrainArgs),
    /// Let a drained backend take new dialogs again.
    Undrain(drain::UndrainArgs),
    Route(route::RouteArgs),
    Replay(replay::ReplayArgs),
    Capture(watch::CaptureArgs),
    Trace(watch::TraceArgs),
    /// Take the program off every interface and remove every pin.
    Detach(detach::DetachArgs),
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print a completion script.
    Completions {
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

/// Which running instance.
#[derive(Clone, Debug, Args)]
pub struct Instance {
    /// Its admin socket.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Its configuration, which names the socket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Instance {
    /// The admin socket.
    fn socket(&self) -> Result<PathBuf> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(file)) => Ok(config::load(file)?.config.admin_socket),
            (None, None) => Ok(PathBuf::from(DEFAULT_SOCKET)),
        }
    }
}

const DEFAULT_SOCKET: &str = "/run/sip-lb/admin.sock";
const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sip-lb";

impl Cli {
    /// Does what was typed; returns the exit code.
    ///
    /// # Errors
    ///
    /// What could not be done, to be printed; the exit code is 1.
    pub fn execute(self) -> Result<u8> {
        match self.task {
            Task::Run(args) => run::run(&args),
            Task::Check { file, json } => run_check(&file, json),
            Task::Status(args) => status::run(&args),
            Task::Reload(instance) => reload(&instance),
            Task::Drain(args) => drain::drain(&args),
            Task::Undrain(args) => drain::undrain(&args),
            Task::Route(args) => route::run(&args),
            Task::Replay(args) => replay::run(&args),
            Task::Capture(args) => watch::capture(&args),
            Task::Trace(args) => watch::trace(&args),
            Task::Detach(args) => detach::run(&args),
            Task::Schema => {
                print(&format!("{}\n", serde_json::to_string_pretty(&config::json_schema())?))
            }
            Task::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "sip-lb", &mut text);
                print(&String::from_utf8_lossy(&text))
            }
            Task::Man => {
                let mut text = Vec::new();
                clap_mangen::Man::new(Self::command()).render(&mut text)?;
                print(&String::from_utf8_lossy(&text))
            }
        }
    }
}

/// Writes to standard output; a reader that has gone is not an error.
fn print(text: &str) -> Result<u8> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        other => other.context("cannot write to standard output").map(|()| exit::DONE),
    }
}

fn run_check(file: &std::path::Path, json: bool) -> Result<u8> {
    let memory = |config: &config::Config| -> u64 {
        let capacities: Capacities = datapath::load::capacities(config);
        capacities.memory(datapath::stats::cpus())
    };
    let shares = |service: &config::model::Service, backends: &[config::model::Backend]| {
        let none_down = BTreeSet::new();
        let table = expected(backends, service.balance, &none_down, &mut TableCache::default());
        backends.iter().map(|b| (b.name.clone(), table.share(&b.name))).collect()
    };
    let numbers = check::Numbers { shares: &shares, memory_bytes: &memory };
    Ok(check::run(file, json, &numbers, &mut std::io::stdout(), &mut std::io::stderr())?)
}

fn reload(instance: &Instance) -> Result<u8> {
    let socket = instance.socket()?;
    match socket::ask(&socket, &Command::Reload)? {
        Some(Answer::Done(summary)) => {
            println!("{summary}");
            Ok(exit::DONE)
        }
        Some(Answer::Refused(cause)) => {
            eprintln!("sip-lb: refused, the running configuration goes on: {cause}");
            Ok(exit::REFUSED)
        }
        Some(Answer::Status(_) | Answer::Remaining(_)) => {
            anyhow::bail!("{} answered something else", socket.display())
        }
        None => not_running(&socket),
    }
}

fn not_running(socket: &std::path::Path) -> Result<u8> {
    eprintln!("sip-lb: not running: nobody answers on {}", socket.display());
    Ok(exit::NOT_RUNNING)
}
