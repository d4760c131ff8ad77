//! A real Kamailio as a backend: answers OPTIONS, relays calls to a SIPp server beside it.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    lab::{Host, Site},
    process::Process,
    sipp::{Served, Uas},
    socket::wait_for_udp,
};

const CONFIG: &str = include_str!("../fixtures/kamailio/proxy.cfg");
const BORDER: &str = include_str!("../fixtures/kamailio/b2bua.cfg");
/// The server's port on the same address.
const SERVER_PORT: u16 = 5080;
/// Kamailio opens its sockets well within this.
const START: Duration = Duration::from_secs(10);

/// A running Kamailio with its server.
#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    server: Uas,
}

impl Kamailio {
    /// Starts both and waits until their sockets are open.
    ///
    /// # Errors
    /// If one does not start; with the end of its log.
    pub fn start(host: &Host, directory: &Path, address: SocketAddr) -> Result<Self> {
        Self::launch(host, directory, address, false)
    }

    /// The same, as processes that may outlive this one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_lasting(host: &Host, directory: &Path, address: SocketAddr) -> Result<Self> {
        Self::launch(host, directory, address, true)
    }

    /// Starts a Kamailio with a configuration of its own and without a server beside it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn alone(
        host: &Host,
        directory: &Path,
        address: SocketAddr,
        config: &str,
    ) -> Result<Process> {
        run(host, host.command("kamailio"), directory, address, config)
    }

    fn launch(host: &Host, directory: &Path, address: SocketAddr, lasting: bool) -> Result<Self> {
        let server_address = SocketAddr::new(address.ip(), SERVER_PORT);
        let (server, command) = if lasting {
            let server = Uas::start_lasting(host, directory, server_address)?;
            (server, host.lasting_command("kamailio"))
        } else {
            let server = Uas::start(host, directory, server_address)?;
            (server, host.command("kamailio"))
        };

        let config = CONFIG.replace("@SERVER@", &server_address.to_string());
        Ok(Self { process: run(host, command, directory, address, &config)?, server })
    }

    /// The proxy, to freeze or kill it with all its workers.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The server behind it.
    pub fn server(&mut self) -> &mut Uas {
        &mut self.server
    }

    /// Ends both; what the server counted.
    ///
    /// # Errors
    /// If one does not end, or statistics cannot be read.
    pub fn finish(mut self) -> Result<Served> {
        self.process.kill()?;
        self.server.finish()
    }
}

/// A border element on each backend of a site, which relays calls to `callee` under a Call-ID of its own.
///
/// # Errors
/// If one does not start; with the end of its log.
pub fn borders(site: &Site, callee: SocketAddr) -> Result<Vec<Process>> {
    let border = |(n, host): (u8, &Host)| {
        let config = BORDER
            .replace("@VIP@", &site.vip(0).to_string())
            .replace("@CALLEE@", &callee.to_string())
            .replace("@KEY@", &format!("key of border {n}"));
        Kamailio::alone(host, site.lab.directory(), site.backend_address(n), &config)
    };
    (0..).zip(&site.backends).map(border).collect()
}

/// Starts `command`, a Kamailio, by the configuration `text` with `@LISTEN@` replaced.
fn run(
    host: &Host,
    mut command: Command,
    directory: &Path,
    address: SocketAddr,
    text: &str,
) -> Result<Process> {
    let name = format!("{}-kamailio", host.name());
    // Its control sockets and pid file; nothing is written outside.
    let runtime = directory.join(&name);
    fs::create_dir_all(&runtime)?;
    let config = runtime.join("kamailio.cfg");
    fs::write(&config, text.replace("@LISTEN@", &address.to_string()))
        .with_context(|| config.display().to_string())?;
    command
        .args(["-DD", "-E", "-m", "32", "-M", "8", "-f"])
        .arg(&config)
        .arg("-Y")
        .arg(&runtime)
        .arg("-w")
        .arg(&runtime)
        .arg("-P")
        .arg(runtime.join("pid"));
    let mut process = Process::spawn(&name, command, directory)?;
    wait_for_udp(&mut process, address, START)?;
    Ok(process)
}
