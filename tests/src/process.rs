//! Long-running children: their output in a file, awaited by what they say, ended by pid.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::command::show;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `ready` gives a value.
///
/// # Errors
/// If it does not within `limit`, naming `what`; or with the error of `ready` at once.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
        }
        thread::sleep(POLL);
    }
}

/// A child process in a group of its own. Dropping it kills the group; while a test fails, the end
/// of its log is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
    kept: bool,
}

impl Process {
    /// Starts a command with its output in `directory/name.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{} cannot be written", log.display()))?;
        let shown = show(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{shown}` does not start"))?;
        Ok(Self { name: name.to_owned(), child, log, status: None, kept: false })
    }

    /// The child's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("{} is gone", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines that it said, for people.
    #[must_use]
    pub fn tail(&self) -> String {
        const LINES: usize = 30;
        let log = self.log().unwrap_or_else(|why| why.to_string());
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        format!("end of {}:\n  {}", self.log.display(), lines[from..].join("\n  "))
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// If it does not within `limit` or the child ends before; with the end of its log.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let name = self.name.clone();
        let done = wait_for(&format!("{what} of {name}"), limit, || {
            if ready(self)? {
                return Ok(Some(()));
            }
            match self.ended()? {
                Some(status) => bail!("{name} ended ({status}) before {what}"),
                None => Ok(None),
            }
        });
        done.with_context(|| self.tail())
    }

    /// Waits until the log contains `text`.
    ///
    /// # Errors
    /// As [`Self::wait_until`].
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_until(&format!("`{text}`"), limit, |process| Ok(process.log()?.contains(text)))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`; with the end of its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || self.ended()).with_context(|| self.tail())
    }

    /// Sends a signal to the child and all that it started.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Once reaped, the number may belong to someone else.
        if let Some(status) = self.ended()? {
            bail!("no {signal} to {}: it has ended ({status})", self.name);
        }
        killpg(self.group()?, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Stops it from running, as a host that hangs: sockets stay open, nothing is answered.
    ///
    /// # Errors
    /// If it has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Undoes [`Self::freeze`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGKILL)?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// Asks it to end by SIGTERM, and waits.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(limit)
    }

    /// Lets it live on when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    fn group(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {}: {}", self.name, self.tail());
        }
        if !self.kept
            && let Err(why) = self.kill()
        {
            eprintln!("{} (pid {}) may still run: {why:#}", self.name, self.child.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn shell(name: &str, script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let directory = std::env::temp_dir().join(format!("sip-lb-process-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Process::spawn(name, command, &directory).unwrap()
    }

    fn runs(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[test]
    fn what_a_process_says_can_be_awaited() {
        let mut process = shell("says", "sleep 0.05; echo it is ready; sleep 60");
        process.wait_for_line("is ready", SOON).unwrap();
        assert!(process.ended().unwrap().is_none());
    }

    #[test]
    fn an_early_end_is_an_error_with_the_log() {
        let mut process = shell("early", "echo the reason; exit 7");
        let why = format!("{:#}", process.wait_for_line("ready", SOON).unwrap_err());
        assert!(why.contains("the reason") && why.contains('7'), "{why}");
        assert!(process.signal(Signal::SIGTERM).is_err());
        process.kill().unwrap();
    }

    #[test]
    fn dropping_ends_the_process_and_what_it_started() {
        let mut process = shell("group", "sleep 60 & echo child $!; wait");
        process.wait_for_line("child", SOON).unwrap();
        let log = process.log().unwrap();
        let child: i32 = log.trim().strip_prefix("child ").unwrap().parse().unwrap();
        assert!(runs(child));
        drop(process);
        wait_for("the end of the child", SOON, || Ok((!runs(child)).then_some(()))).unwrap();
    }

    #[test]
    fn a_time_limit_ends_the_wait() {
        let mut process = shell("slow", "sleep 60");
        let limit = Duration::from_millis(30);
        assert!(process.wait(limit).is_err());
        process.freeze().unwrap();
        process.thaw().unwrap();
        assert!(!process.terminate(SOON).unwrap().success());
    }
}
