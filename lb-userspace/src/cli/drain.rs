//! `sip-lb drain` and `sip-lb undrain`.

use std::{path::Path, str::FromStr, time::Duration};

use anyhow::{Result, bail};
use clap::Args;

use super::{Instance, exit, not_running, print};
use crate::{
    admin::socket::{self, Answer, Command},
    event::Remaining,
    state::Admin,
};

/// Between two looks of `--wait`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The backend, by the names of its service and itself.
    #[arg(value_name = "SERVICE/BACKEND")]
    backend: BackendName,
    /// Return when its last call has ended, ringing ones included.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    instance: Instance,
}

#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    /// The backend, by the names of its service and itself.
    #[arg(value_name = "SERVICE/BACKEND")]
    backend: BackendName,
    #[command(flatten)]
    instance: Instance,
}

/// `SERVICE/BACKEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BackendName {
    service: String,
    backend: String,
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
                Ok(Self { service: service.to_owned(), backend: backend.to_owned() })
            }
            Some(_) | None => {
                Err("a service and a backend are needed, such as trunk-in/gw1".into())
            }
        }
    }
}

/// Lets a backend take no new dialogs.
pub(super) fn drain(args: &DrainArgs) -> Result<u8> {
    let socket = args.instance.socket()?;
    let BackendName { service, backend } = args.backend.clone();
    let code = tell(&socket, &Command::Drain { service, backend })?;
    if code != exit::DONE || !args.wait {
        return Ok(code);
    }
    wait(&socket, &args.backend)
}

/// Lets a drained backend take new dialogs again.
pub(super) fn undrain(args: &UndrainArgs) -> Result<u8> {
    let BackendName { service, backend } = args.backend.clone();
    tell(&args.instance.socket()?, &Command::Undrain { service, backend })
}

fn tell(socket: &Path, command: &Command) -> Result<u8> {
    match socket::ask(socket, command)? {
        Some(Answer::Done(said)) => print(&format!("{said}\n")),
        Some(Answer::Refused(why)) => {
            eprintln!("sip-lb: refused: {why}");
            Ok(exit::REFUSED)
        }
        Some(Answer::Status(_) | Answer::Remaining(_)) => {
            bail!("{} answered something else", socket.display())
        }
        None => not_running(socket),
    }
}

/// Says how many calls are left until there are none.
fn wait(socket: &Path, name: &BackendName) -> Result<u8> {
    let mut progress = Progress::default();
    loop {
        // At the start too: a table that waits for its place to rest is published by then.
        std::thread::sleep(LOOK_EVERY);
        let BackendName { service, backend } = name.clone();
        let remaining = match socket::ask(socket, &Command::Remaining { service, backend })? {
            Some(Answer::Remaining(remaining)) => remaining,
            // Removed from the configuration meanwhile, and forgotten since it had none left.
            Some(Answer::Refused(_)) if progress.is_watched() => {
                return print(&format!("{}/{}: no calls left\n", name.service, name.backend));
            }
            Some(Answer::Refused(why)) => {
                eprintln!("sip-lb: refused: {why}");
                return Ok(exit::REFUSED);
            }
            Some(Answer::Status(_) | Answer::Done(_)) => {
                bail!("{} answered something else", socket.display())
            }
            None => return not_running(socket),
        };
        if remaining.admin == Admin::Ready {
            eprintln!(
                "sip-lb: refused: {}/{} takes new dialogs again: somebody has undrained it",
                name.service, name.backend
            );
            return Ok(exit::REFUSED);
        }
        match progress.look(&remaining) {
            Some(Look::Left(said)) => {
                print(&format!("{}/{}: {said}\n", name.service, name.backend))?;
            }
            Some(Look::Done) => {
                return print(&format!("{}/{}: no calls left\n", name.service, name.backend));
            }
            None => {}
        }
    }
}

/// What a look at the remaining calls is worth saying.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Left(String),
    Done,
}

/// Which sweeps of the dialog table count, and what was said last.
#[derive(Debug, Default)]
struct Progress {
    /// Sweeps that had begun when the backend was drained: what they find is older than that.
    before: Option<u64>,
    /// Sweeps that had begun at the last look.
    begun: u64,
    said: Option<(u64, u64)>,
}

impl Progress {
    const fn is_watched(&self) -> bool {
        self.before.is_some()
    }

    fn look(&mut self, remaining: &Remaining) -> Option<Look> {
        if remaining.sweeps_begun < self.begun {
            // Another controller counts from the start.
            self.before = None;
        }
        self.begun = remaining.sweeps_begun;
        let before = *self.before.get_or_insert(remaining.sweeps_begun);
        if remaining.last_sweep <= before {
            return None;
        }
        let counts = (remaining.calls, remaining.ringing);
        if counts == (0, 0) {
            return Some(Look::Done);
        }
        if self.said == Some(counts) {
            return None;
        }
        self.said = Some(counts);
        let ringing = match counts.1 {
            0 => String::new(),
            ringing => format!(", {ringing} ringing"),
        };
        Some(Look::Left(format!("{} calls left{ringing}", counts.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remaining(calls: u64, ringing: u64, sweeps_begun: u64, last_sweep: u64) -> Remaining {
        Remaining { calls, ringing, admin: Admin::Drain, sweeps_begun, last_sweep }
    }

    #[test]
    fn only_a_sweep_that_began_after_the_drain_tells_that_no_call_is_left() {
        let mut progress = Progress::default();
        assert_eq!(progress.look(&remaining(0, 0, 5, 4)), None);
        assert_eq!(progress.look(&remaining(0, 0, 5, 5)), None, "it was under way");
        assert_eq!(progress.look(&remaining(0, 0, 6, 5)), None);
        let left = |text: &str| Some(Look::Left(text.to_owned()));
        assert_eq!(progress.look(&remaining(2, 1, 6, 6)), left("2 calls left, 1 ringing"));
        assert_eq!(progress.look(&remaining(2, 1, 7, 6)), None, "said already");
        assert_eq!(progress.look(&remaining(0, 1, 7, 7)), left("0 calls left, 1 ringing"));
        assert_eq!(progress.look(&remaining(0, 0, 8, 8)), Some(Look::Done));
    }

    #[test]
    fn sweeps_of_a_controller_that_took_over_are_counted_anew() {
        let mut progress = Progress::default();
        assert_eq!(progress.look(&remaining(1, 0, 50, 49)), None);
        assert_eq!(progress.look(&remaining(0, 0, 1, 0)), None);
        assert_eq!(progress.look(&remaining(0, 0, 2, 1)), None);
        assert_eq!(progress.look(&remaining(0, 0, 3, 2)), Some(Look::Done));
    }

    #[test]
    fn a_backend_is_named_with_its_service() {
        let name = |text: &str| text.parse::<BackendName>().map(|n| (n.service, n.backend));
        assert_eq!(name("trunk-in/gw1"), Ok(("trunk-in".to_owned(), "gw1".to_owned())));
        for text in ["gw1", "/gw1", "trunk-in/", ""] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
