//! SIPp as caller and as backend, by scenarios in `fixtures/sipp/`.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::{lab::Host, process::Process, socket::wait_for_udp, statistics::Statistics};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sipp");
/// A peer that does not open its socket within this has failed.
const START: Duration = Duration::from_secs(10);

/// SIPp's own files, by a name that no other SIPp of the laboratory has.
#[derive(Debug)]
pub(crate) struct Files {
    name: String,
    directory: PathBuf,
}

impl Files {
    pub(crate) fn new(role: &str, host: &Host, directory: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{role}-{number}", host.name());
        Self { name, directory: directory.to_owned() }
    }

    pub(crate) fn path(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }
}

/// Starts SIPp with what both roles share.
pub(crate) fn start(
    host: &Host,
    files: &Files,
    lasting: bool,
    scenario: &str,
    local: SocketAddr,
    options: &[String],
) -> Result<Process> {
    let mut command = if lasting { host.lasting_command("sipp") } else { host.command("sipp") };
    command
        .current_dir(&files.directory)
        .arg("-sf")
        .arg(format!("{SCENARIOS}/{scenario}.xml"))
        .args(["-i", &local.ip().to_string(), "-p", &local.port().to_string(), "-bind_local"])
        .args(["-nostdin"])
        .args(["-trace_stat", "-fd", "1", "-stf"])
        .arg(files.path("csv"))
        .args(["-trace_err", "-error_file"])
        .arg(files.path("errors"))
        .args(options);
    let mut process = Process::spawn(&files.name, command, &files.directory)?;
    wait_for_udp(&mut process, local, START)?;
    Ok(process)
}

/// A server: answers INVITE, BYE and OPTIONS.
#[derive(Debug)]
pub struct Uas {
    process: Process,
    files: Files,
}

/// What a server has seen; retransmissions are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub invites: u64,
    /// BYEs of calls taken here.
    pub byes: u64,
    pub options: u64,
    /// BYEs of dialogs that it does not know, answered by 481.
    pub strays: u64,
}

impl Uas {
    /// Starts a server on `address` and waits until its socket is open.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    pub fn start(host: &Host, directory: &Path, address: SocketAddr) -> Result<Self> {
        Self::launch(host, directory, address, false)
    }

    /// The same, as a process that may outlive this one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_lasting(host: &Host, directory: &Path, address: SocketAddr) -> Result<Self> {
        Self::launch(host, directory, address, true)
    }

    fn launch(host: &Host, directory: &Path, address: SocketAddr, lasting: bool) -> Result<Self> {
        let files = Files::new("uas", host, directory);
        // -nd: nothing unexpected is answered by more than the scenario says.
        let process = start(host, &files, lasting, "uas", address, &["-nd".to_owned()])?;
        Ok(Self { process, files })
    }

    /// The process, to freeze or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it counted, at most about a second old.
    ///
    /// # Errors
    /// If its statistics cannot be read.
    pub fn served(&self) -> Result<Served> {
        let statistics = Statistics::read(&self.files.path("csv"))?;
        Ok(Served {
            invites: statistics.get("invites(C)")?,
            byes: statistics.get("byes(C)")?,
            options: statistics.get("options(C)")?,
            strays: statistics.get("strays(C)")?,
        })
    }

    /// Ends it; all that it counted.
    ///
    /// # Errors
    /// If it does not end, or its statistics cannot be read.
    pub fn finish(mut self) -> Result<Served> {
        const LONGEST: Duration = Duration::from_secs(10);
        // At once, statistics written. (SIGUSR1 waits for calls whose BYE may never come.)
        self.process.terminate(LONGEST)?;
        self.served()
    }
}

/// Calls to place.
#[derive(Clone, Debug)]
pub struct Calls {
    /// New calls a second.
    pub rate: u32,
    /// Stop after so many; `None` = until told to.
    pub count: Option<u64>,
    /// Time between ACK and BYE.
    pub hold: Duration,
    /// Retransmissions of an INVITE or BYE before the call fails; RFC 3261's timers give 6.
    pub retransmissions: u32,
    /// Fail a call that waits longer than this for a message; `None` = wait for ever, as after a
    /// provisional response whose sender has died.
    pub patience: Option<Duration>,
    /// Name of the scenario in `fixtures/sipp/`.
    pub scenario: &'static str,
    /// Form of the Call-IDs, `%u` is the number of the call; `None` = SIPp's own, all different.
    pub call_ids: Option<&'static str>,
}

impl Default for Calls {
    /// 50 a second, until told to stop, held for 200 ms, 6 retransmissions, 40 s of patience.
    fn default() -> Self {
        Self {
            rate: 50,
            count: None,
            hold: Duration::from_millis(200),
            retransmissions: 6,
            patience: Some(Duration::from_secs(40)),
            scenario: "uac",
            call_ids: None,
        }
    }
}

/// A caller.
#[derive(Debug)]
pub struct Uac {
    process: Process,
    files: Files,
}

/// What became of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub placed: u64,
    /// Ended well: INVITE, ACK and BYE answered by the backend that knew the dialog.
    pub successful: u64,
    pub failed: u64,
    /// Set up, but at BYE the backend did not know the dialog (481).
    pub cut: u64,
    /// INVITEs answered by 200.
    pub setups: u64,
    pub retransmissions: u64,
    /// Why calls failed, in SIPp's words.
    pub failures: BTreeMap<String, u64>,
}

impl Uac {
    /// Starts placing calls from `local` to `remote`.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    pub fn start(
        host: &Host,
        directory: &Path,
        local: SocketAddr,
        remote: SocketAddr,
        calls: &Calls,
    ) -> Result<Self> {
        Self::launch(host, directory, local, remote, calls, false)
    }

    /// The same, as a process that may outlive this one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_lasting(
        host: &Host,
        directory: &Path,
        local: SocketAddr,
        remote: SocketAddr,
        calls: &Calls,
    ) -> Result<Self> {
        Self::launch(host, directory, local, remote, calls, true)
    }

    fn launch(
        host: &Host,
        directory: &Path,
        local: SocketAddr,
        remote: SocketAddr,
        calls: &Calls,
        lasting: bool,
    ) -> Result<Self> {
        let files = Files::new("uac", host, directory);
        let mut options: Vec<String> = [
            ("-r", calls.rate.to_string()),
            ("-d", calls.hold.as_millis().to_string()),
            ("-max_retrans", calls.retransmissions.to_string()),
            // The default stops new calls when answers stay away.
            ("-l", "15000".to_owned()),
            ("-rtt_freq", "1".to_owned()),
            // A 180 that comes after its 200 ends no call: UDP keeps no order, least of all between
            // two processors. A wrong answer does, by `patience`.
            ("-default_behaviors", "all,-abortunexp".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if let Some(count) = calls.count {
            options.extend(["-m".to_owned(), count.to_string()]);
        }
        if let Some(patience) = calls.patience {
            options.extend(["-recv_timeout".to_owned(), patience.as_millis().to_string()]);
        }
        if let Some(form) = calls.call_ids {
            options.extend(["-cid_str".to_owned(), form.to_owned()]);
        }
        options.extend(["-trace_rtt".to_owned(), remote.to_string()]);
        let process = start(host, &files, lasting, calls.scenario, local, &options)?;
        Ok(Self { process, files })
    }

    /// The process, to let it live on.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What became of the calls so far, at most about a second old.
    ///
    /// # Errors
    /// If its statistics cannot be read.
    pub fn outcome(&self) -> Result<Outcome> {
        let statistics = Statistics::read(&self.files.path("csv"))?;
        let cut = statistics.get("cut(C)")?;
        Ok(Outcome {
            placed: statistics.get("TotalCallCreated")?,
            successful: statistics.get("SuccessfulCall(C)")?.saturating_sub(cut),
            failed: statistics.get("FailedCall(C)")?,
            cut,
            setups: statistics.get("setups(C)")?,
            retransmissions: statistics.get("Retransmissions(C)")?,
            failures: statistics.failures(),
        })
    }

    /// Waits until all calls of `count` have ended.
    ///
    /// # Errors
    /// If they do not within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome> {
        self.process.wait(limit)?;
        self.outcome()
    }

    /// Places no more calls and waits for the end of those that are under way.
    ///
    /// # Errors
    /// If they do not end within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<Outcome> {
        self.place_no_more()?;
        self.process.wait(limit)?;
        self.outcome()
    }

    /// Places no more calls; it ends by itself when those under way have ended.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn place_no_more(&mut self) -> Result<()> {
        // It may have placed its `count` just now.
        if self.process.ended()?.is_none() {
            self.process.signal(Signal::SIGUSR1)?;
        }
        Ok(())
    }

    /// Time from INVITE to 200 of every call that was set up, ascending, in SIPp's resolution of
    /// 1 ms. [`crate::tap::Tap`] gives finer ones.
    ///
    /// # Errors
    /// If SIPp's file cannot be read.
    pub fn setup_times(&self) -> Result<Vec<Duration>> {
        let path = self.files.directory.join(format!("uac_{}_rtt.csv", self.process.id()));
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut times = Vec::new();
        for line in text.lines().skip(1) {
            let time = line.split(';').nth(1).unwrap_or_default();
            let milliseconds: f64 =
                time.parse().with_context(|| format!("{}: `{line}`", path.display()))?;
            times.push(Duration::from_secs_f64(milliseconds / 1e3));
        }
        times.sort_unstable();
        Ok(times)
    }

    /// What went wrong, in SIPp's words; empty if nothing did.
    #[must_use]
    pub fn errors(&self) -> String {
        const ENOUGH: usize = 4_000;
        let text = fs::read(self.files.path("errors")).unwrap_or_default();
        String::from_utf8_lossy(&text[..text.len().min(ENOUGH)]).into_owned()
    }
}

/// The `percent`-th percentile of ascending values (nearest rank); `None` of nothing.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&times, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&times, 100), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&times[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
