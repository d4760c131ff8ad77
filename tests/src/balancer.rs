//! sip-lb itself on the edge host of a laboratory: its configuration, its process, its commands.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    command::{command, output},
    lab::{Host, Site},
    process::Process,
};

/// sip-lb answers `status` well within this after its start, loading included.
const START: Duration = Duration::from_secs(20);

/// The program: `$SIP_LB_BIN`, else what `cargo build` made.
#[must_use]
pub fn program() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = || here.parent().unwrap_or(here).join("target/debug/sip-lb");
    env::var_os("SIP_LB_BIN").map_or_else(built, PathBuf::from)
}

/// A backend as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    pub priority: u16,
    pub weight: u16,
    /// More keys, such as `, aliases: [gw1.example.net]`.
    pub more: String,
}

/// A configuration with one service; [`Settings::yaml`] is what a user would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub interfaces: Vec<String>,
    pub xdp_mode: String,
    pub socket: PathBuf,
    pub pin_dir: PathBuf,
    /// Between the braces of `defaults: { health: { … } }`.
    pub health: String,
    /// More top-level lines.
    pub more: String,
    pub service: String,
    pub listen: SocketAddr,
    /// More lines of the service, indented by four.
    pub policy: String,
    pub backends: Vec<Backend>,
    /// More services: lines of the list, each item indented by two.
    pub services: String,
}

impl Settings {
    /// Health checks that find a dead backend within 1 s.
    pub const QUICK: &str =
        "interval: 500ms, fast_interval: 100ms, timeout: 300ms, rise: 2, fall: 3";

    /// Native mode; the site's first VIP over all its backends, `gw1` and so on, with equal
    /// weights in one tier; quick health checks.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        let backend = |n: u8| Backend {
            name: format!("gw{}", n + 1),
            address: site.backend_address(n),
            priority: 10,
            weight: 1,
            more: String::new(),
        };
        Self {
            interfaces: site.interfaces.clone(),
            xdp_mode: "native".to_owned(),
            socket: site.lab.directory().join("admin.sock"),
            pin_dir: site.lab.pin_dir(),
            health: Self::QUICK.to_owned(),
            more: String::new(),
            service: "trunk-in".to_owned(),
            listen: site.vip(0),
            policy: String::new(),
            backends: (0..).zip(&site.backends).map(|(n, _host)| backend(n)).collect(),
            services: String::new(),
        }
    }

    /// No backend is probed, each counts as up: for peers that answer no probe, or start later.
    pub fn unprobed(&mut self) {
        for backend in &mut self.backends {
            backend.more.push_str(", health: off");
        }
    }

    /// The configuration file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "interfaces: [{}]\n\
             xdp_mode: {}\n\
             hash_key: laboratory\n\
             metrics: {{ listen: \"127.0.0.1:9560\" }}\n\
             admin: {{ socket: {} }}\n\
             pin_dir: {}\n\
             {}\
             defaults:\n  \
               health: {{ {} }}\n\
             services:\n  \
               - name: {}\n    \
                 listen: \"{}\"\n\
             {}    \
                 backends:\n",
            self.interfaces.join(", "),
            self.xdp_mode,
            self.socket.display(),
            self.pin_dir.display(),
            self.more,
            self.health,
            self.service,
            self.listen,
            self.policy,
        );
        for Backend { name, address, priority, weight, more } in &self.backends {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "      - {{ name: {name}, address: \"{address}\", priority: {priority}, \
                 weight: {weight}{more} }}"
            );
        }
        text.push_str(&self.services);
        text
    }
}

/// How a command ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A running sip-lb.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    host: Host,
    directory: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    lasting: bool,
}

impl Balancer {
    /// Starts `sip-lb run` on the edge host and waits until it answers `status`.
    ///
    /// # Errors
    /// If it does not; with the end of its log.
    pub fn start(site: &Site, settings: &Settings) -> Result<Self> {
        Self::launch(site, settings, false)
    }

    /// The same, as a process that may outlive this one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_lasting(site: &Site, settings: &Settings) -> Result<Self> {
        Self::launch(site, settings, true)
    }

    fn launch(site: &Site, settings: &Settings, lasting: bool) -> Result<Self> {
        let directory = site.lab.directory().to_owned();
        let config = directory.join("config.yaml");
        fs::write(&config, settings.yaml())?;
        let (host, socket) = (site.edge.clone(), settings.socket.clone());
        let process = run(&host, &directory, &config, lasting)?;
        let mut balancer = Self { process, host, directory, config, socket, lasting };
        balancer.wait_until_ready()?;
        Ok(balancer)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.socket.clone();
        self.process
            .wait_until("an answer to `status`", START, |_process| Ok(status(&socket).is_ok()))
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process, to wait for, signal or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// What `sip-lb status --json` says.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Value> {
        status(&self.socket).with_context(|| self.tail())
    }

    /// A field of a backend of the first service in `status --json`, such as `health`.
    ///
    /// # Errors
    /// If there is no such backend or field.
    pub fn backend(&self, name: &str, field: &str) -> Result<Value> {
        backend(&self.status()?, name, field)
    }

    /// Waits until a field of a backend has this value.
    ///
    /// # Errors
    /// If it has another after `limit`.
    pub fn wait_for(
        &mut self,
        name: &str,
        field: &str,
        value: &Value,
        limit: Duration,
    ) -> Result<()> {
        let socket = self.socket.clone();
        self.process.wait_until(&format!("{field} = {value} of {name}"), limit, |_process| {
            Ok(backend(&status(&socket)?, name, field)? == *value)
        })
    }

    /// A command of sip-lb to this instance, such as `drain trunk-in/gw1`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = sip_lb();
        command.args(words).arg("--socket").arg(&self.socket);
        command
    }

    /// Runs such a command to its end.
    ///
    /// # Errors
    /// If it does not start.
    pub fn tell(&self, words: &[&str]) -> Result<Said> {
        let done = self.command(words).output()?;
        Ok(Said {
            code: done.status.code(),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Writes another configuration and has it loaded by `sip-lb reload`.
    ///
    /// # Errors
    /// If it is refused.
    pub fn reload(&self, yaml: &str) -> Result<()> {
        fs::write(&self.config, yaml)?;
        output(sip_lb().arg("reload").arg("--socket").arg(&self.socket)).map(|_said| ())
    }

    /// Starts it again after its end, with the configuration as it is.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        // Left by a process that was killed, it would look ready.
        let _gone = fs::remove_file(&self.socket);
        self.process = run(&self.host, &self.directory, &self.config, self.lasting)?;
        self.wait_until_ready()
    }
}

fn run(host: &Host, directory: &Path, config: &Path, lasting: bool) -> Result<Process> {
    let mut command =
        if lasting { host.lasting_command(program()) } else { host.command(program()) };
    command.arg("run").arg("--config").arg(config);
    Process::spawn("sip-lb", command, directory)
}

/// A command of sip-lb outside of the laboratory.
#[must_use]
pub fn sip_lb() -> Command {
    command(program())
}

/// What `sip-lb check --json` says about a configuration file, valid or not.
///
/// # Errors
/// If that is no JSON.
pub fn check(config: &Path) -> Result<Value> {
    let done = sip_lb().arg("check").arg(config).arg("--json").output()?;
    serde_json::from_slice(&done.stdout).with_context(|| {
        format!("`check --json` said {}", String::from_utf8_lossy(&done.stderr).trim())
    })
}

fn status(socket: &Path) -> Result<Value> {
    let text = output(sip_lb().args(["status", "--json", "--socket"]).arg(socket))?;
    serde_json::from_str(&text).with_context(|| format!("`status --json` said {text}"))
}

/// A field of a backend of the first service in what `status --json` said.
///
/// # Errors
/// If there is no such backend or field.
pub fn backend(status: &Value, name: &str, field: &str) -> Result<Value> {
    let list = status["services"][0]["backends"].as_array();
    let backend = list.and_then(|list| list.iter().find(|backend| backend["name"] == name));
    backend
        .and_then(|backend| backend.get(field))
        .cloned()
        .with_context(|| format!("no `{field}` of backend {name} in {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_backends_are_found_as_documented() {
        let status: Value = serde_json::from_str(
            r#"{"services":[{"name":"trunk-in","backends":[
                {"name":"gw1","health":"up","share":0.25},
                {"name":"gw2","health":"down","busy_until":null}]}]}"#,
        )
        .unwrap();
        assert_eq!(backend(&status, "gw1", "share").unwrap(), 0.25);
        assert_eq!(backend(&status, "gw2", "busy_until").unwrap(), Value::Null);
        assert!(backend(&status, "gw2", "share").is_err());
        assert!(backend(&status, "gw3", "health").is_err());
    }
}
