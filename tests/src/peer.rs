//! SIPp with any scenario of `fixtures/sipp/`, on either side of the balancer.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;

use crate::{
    lab::Host,
    process::Process,
    sipp::{Files, start},
    statistics::Statistics,
};

/// A running SIPp.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    files: Files,
}

/// What became of its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub created: u64,
    pub successful: u64,
    pub failed: u64,
}

impl Peer {
    /// Starts a server, which takes what comes, with pauses of `hold` where the scenario has none of
    /// its own.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    pub fn serve(
        host: &Host,
        directory: &Path,
        scenario: &str,
        local: SocketAddr,
        hold: Duration,
    ) -> Result<Self> {
        Self::serve_with(host, directory, scenario, local, hold, &[])
    }

    /// As [`Self::serve`], with `words` for SIPp's command line, such as `-key name value`.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    pub fn serve_with(
        host: &Host,
        directory: &Path,
        scenario: &str,
        local: SocketAddr,
        hold: Duration,
        words: &[&str],
    ) -> Result<Self> {
        // -nd: nothing unexpected is answered by more than the scenario says.
        let mut options = vec!["-nd".to_owned(), "-d".to_owned(), hold.as_millis().to_string()];
        options.extend(words.iter().map(|word| (*word).to_owned()));
        Self::launch(host, directory, scenario, local, &options)
    }

    /// Starts a client that plays its scenario `count` times against `remote`, `rate` a second, with
    /// pauses of `hold` where the scenario has none of its own.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    #[allow(clippy::too_many_arguments, reason = "each is a word of the command line")]
    pub fn play(
        host: &Host,
        directory: &Path,
        scenario: &str,
        local: SocketAddr,
        remote: SocketAddr,
        (count, rate): (u64, u32),
        hold: Duration,
    ) -> Result<Self> {
        let pace = (count, rate, hold);
        Self::play_with(host, directory, scenario, local, remote, pace, &[])
    }

    /// As [`Self::play`], with `words` for SIPp's command line, such as `-key name value`.
    ///
    /// # Errors
    /// If SIPp does not start; with the end of its log.
    #[allow(clippy::too_many_arguments, reason = "each is a word of the command line")]
    pub fn play_with(
        host: &Host,
        directory: &Path,
        scenario: &str,
        local: SocketAddr,
        remote: SocketAddr,
        (count, rate, hold): (u64, u32, Duration),
        words: &[&str],
    ) -> Result<Self> {
        /// A call that waits for longer has failed.
        const PATIENCE: Duration = Duration::from_secs(40);
        let options: Vec<String> = [
            ("-m", count.to_string()),
            ("-r", rate.to_string()),
            ("-d", hold.as_millis().to_string()),
            ("-recv_timeout", PATIENCE.as_millis().to_string()),
            // See `Uac`.
            ("-default_behaviors", "all,-abortunexp".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .chain(words.iter().map(|word| (*word).to_owned()))
        // INFO inside a call is answered whenever it comes.
        .chain(["-aa".to_owned(), remote.to_string()])
        .collect();
        Self::launch(host, directory, scenario, local, &options)
    }

    fn launch(
        host: &Host,
        directory: &Path,
        scenario: &str,
        local: SocketAddr,
        options: &[String],
    ) -> Result<Self> {
        let files = Files::new(scenario, host, directory);
        let process = start(host, &files, false, scenario, local, options)?;
        Ok(Self { process, files })
    }

    /// The process, to freeze or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A counter of the scenario, at most about a second old.
    ///
    /// # Errors
    /// If there is no such counter.
    pub fn count(&self, counter: &str) -> Result<u64> {
        Statistics::read(&self.files.path("csv"))?.get(&format!("{counter}(C)"))
    }

    /// What became of its calls, at most about a second old.
    ///
    /// # Errors
    /// If its statistics cannot be read.
    pub fn tally(&self) -> Result<Tally> {
        let statistics = Statistics::read(&self.files.path("csv"))?;
        Ok(Tally {
            created: statistics.get("TotalCallCreated")?,
            successful: statistics.get("SuccessfulCall(C)")?,
            failed: statistics.get("FailedCall(C)")?,
        })
    }

    /// Waits until a client has played its part.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Tally> {
        self.process.wait(limit)?;
        self.tally()
    }

    /// Ends a server; what it has done.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<Tally> {
        const LONGEST: Duration = Duration::from_secs(10);
        self.process.terminate(LONGEST)?;
        self.tally()
    }
}
