//! A host of the laboratory: a network namespace by name.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::command::{command, output};

/// Where `ip netns` keeps namespaces.
pub(super) const NAMESPACES: &str = "/run/netns";

/// A handle on a host; copies mean the same host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    namespace: String,
}

impl Host {
    pub(super) fn new(prefix: &str, name: &str) -> Result<Self> {
        // The switch calls its ports `name.nic`, and interface names have at most 15 bytes.
        const LONGEST: usize = 10;
        if name.is_empty() || name.len() > LONGEST {
            bail!("host name `{name}` has {} bytes, allowed are 1 to {LONGEST}", name.len());
        }
        Ok(Self { name: name.to_owned(), namespace: format!("{prefix}-{name}") })
    }

    pub(super) fn create(&self) -> Result<()> {
        output(command("ip").args(["netns", "add", &self.namespace]))?;
        // Addresses are usable at once, replies to and from the host's own addresses may take
        // any way, as `sip-lb run` asks of an edge host.
        self.shell(
            "for conf in all default; do \
               echo 0 > /proc/sys/net/ipv6/conf/$conf/accept_dad; \
               echo 0 > /proc/sys/net/ipv6/conf/$conf/accept_ra; \
               echo 0 > /proc/sys/net/ipv4/conf/$conf/rp_filter; \
               echo 1 > /proc/sys/net/ipv4/conf/$conf/accept_local; \
               echo 0 > /proc/sys/net/ipv4/conf/$conf/send_redirects; \
             done",
        )?;
        self.ip(&["link set lo up"])
    }

    pub(super) fn remove(&self) -> Result<()> {
        output(command("ip").args(["netns", "delete", &self.namespace])).map(|_said| ())
    }

    /// Its name in the laboratory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }

    /// A command on this host. It sees the machine's own file systems, bpffs included
    /// (`ip netns exec` would give it a /sys of its own), and is killed should the thread that
    /// starts it end first.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut chain = command("setpriv");
        chain.args(["--pdeathsig", "KILL", "nsenter"]);
        self.enter_and_run(chain, program.as_ref())
    }

    /// A command on this host that may outlive whoever starts it.
    #[must_use]
    pub fn lasting_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.enter_and_run(command("nsenter"), program.as_ref())
    }

    fn enter_and_run(&self, mut chain: Command, program: &std::ffi::OsStr) -> Command {
        chain.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        chain
    }

    /// Runs a short command on this host; its standard output.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        output(self.command(program).args(args))
    }

    /// Runs a line of shell on this host; it ends at the first command that fails.
    ///
    /// # Errors
    /// Names the line.
    pub fn shell(&self, line: &str) -> Result<String> {
        self.run("sh", &["-ec", line])
    }

    /// Runs `ip` with each of these lines.
    ///
    /// # Errors
    /// Names the line that failed.
    pub fn ip(&self, lines: &[&str]) -> Result<()> {
        let mut child = command("ip")
            .args(["-netns", &self.namespace, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("`ip` does not start")?;
        if let Some(mut stdin) = child.stdin.take() {
            for line in lines {
                writeln!(stdin, "{line}")?;
            }
        }
        let done = child.wait_with_output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("{}: ip {}: {}", self.name, lines.join("; "), said.trim());
        }
        Ok(())
    }

    /// Sets a kernel parameter, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.shell(&format!("echo {value} > /proc/sys/{key}")).map(|_said| ())
    }

    /// Forwards packets that are not for this host.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn forward(&self) -> Result<()> {
        self.shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward; \
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        )
        .map(|_said| ())
    }

    /// Gives a NIC an address (`address/prefix`).
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn address(&self, nic: &str, address: &str) -> Result<()> {
        self.ip(&[&format!("address add {address} dev {nic}")])
    }

    /// Adds a route, such as `default via 10.0.1.1`.
    ///
    /// # Errors
    /// Names the command that failed.
    pub fn route(&self, route: &str) -> Result<()> {
        self.ip(&[&format!("route add {route}")])
    }

    /// MAC of a NIC.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn mac(&self, nic: &str) -> Result<crate::net::Mac> {
        // /sys shows the namespace of who mounted it; `ip` asks the kernel.
        let text = self.run("ip", &["-oneline", "link", "show", nic])?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        let text = words.nth(1).with_context(|| format!("{nic} of {} has no MAC", self.name))?;
        let mut mac = crate::net::Mac::default();
        for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(digits, 16).with_context(|| format!("MAC {text}"))?;
        }
        Ok(mac)
    }

    /// Does something on this host in a thread of its own, such as opening sockets, which stay
    /// this host's.
    ///
    /// # Errors
    /// If the host cannot be entered, or with the error of `work`.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace =
            File::open(self.path()).with_context(|| format!("no host {}", self.name))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("{} cannot be entered", self.name))?;
                work()
            });
            thread.join().unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                Err(anyhow!("panic on {}: {}", self.name, text.unwrap_or_default()))
            })
        })
    }
}
