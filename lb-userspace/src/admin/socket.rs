//! The admin socket: one JSON request a line, one JSON answer a line.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as BlockingStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader as AsyncReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tracing::{debug, warn};

use crate::{
    event::{Remaining, Request, Wish},
    status::Status,
    watch::{self, Wanted},
};

/// Longest request in bytes.
const MAX_REQUEST: u64 = 4096;
/// How long a command waits for its answer; a reload may build many tables.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    Status,
    Reload,
    Drain {
        service: String,
        backend: String,
    },
    Undrain {
        service: String,
        backend: String,
    },
    /// How many calls a backend still has.
    Remaining {
        service: String,
        backend: String,
    },
    /// Show packets until the other side ends; see [`crate::watch::Said`] for what is answered.
    Watch(Wanted),
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    Remaining(Remaining),
    /// Done; what has changed.
    Done(String),
    /// Refused; why.
    Refused(String),
}

/// Binds the socket; only root and its group may write to it.
///
/// # Errors
///
/// If the path cannot be bound, or another instance answers on it.
pub fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(_) if BlockingStream::connect(path).is_ok() => anyhow::bail!(
            "{} is answered by another process; give this one another admin.socket",
            path.display()
        ),
        // Left over from a process that was killed.
        Ok(_) => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale {}", path.display()))?,
        Err(_absent) => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    Ok(listener)
}

/// Serves the socket until the controller is gone.
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(cause) = converse(stream, &requests).await {
                        debug!("admin connection: {cause:#}");
                    }
                });
            }
            Err(cause) => {
                warn!("admin socket: {cause}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, requests: &mpsc::Sender<Request>) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut limited = AsyncReader::new(read.take(MAX_REQUEST));
    limited.read_line(&mut line).await?;
    let read = limited.into_inner().into_inner();
    let answer = match serde_json::from_str(&line) {
        Ok(Command::Watch(wanted)) => {
            return watch::stream::serve(read, write, wanted, requests).await;
        }
        Ok(command) => execute(command, requests).await?,
        Err(cause) => Answer::Refused(format!("not a request: {cause}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    Ok(())
}

async fn execute(command: Command, requests: &mpsc::Sender<Request>) -> Result<Answer> {
    Ok(match command {
        Command::Watch(_) => Answer::Refused("is answered elsewhere".to_owned()),
        Command::Status => {
            let (reply, answer) = oneshot::channel();
            requests.send(Request::Snapshot(reply)).await?;
            Answer::Status(Box::new(answer.await?.status))
        }
        Command::Reload => {
            let (reply, answer) = oneshot::channel();
            requests.send(Request::Reload(reply)).await?;
            outcome(answer.await?)
        }
        Command::Drain { service, backend } => {
            wish(requests, Wish { service, backend, drain: true }).await?
        }
        Command::Undrain { service, backend } => {
            wish(requests, Wish { service, backend, drain: false }).await?
        }
        Command::Remaining { service, backend } => {
            let (reply, answer) = oneshot::channel();
            requests.send(Request::Remaining(service, backend, reply)).await?;
            match answer.await? {
                Ok(remaining) => Answer::Remaining(remaining),
                Err(cause) => Answer::Refused(cause),
            }
        }
    })
}

async fn wish(requests: &mpsc::Sender<Request>, wish: Wish) -> Result<Answer> {
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Wish(wish, reply)).await?;
    Ok(outcome(answer.await?))
}

fn outcome(outcome: std::result::Result<String, String>) -> Answer {
    match outcome {
        Ok(said) => Answer::Done(said),
        Err(cause) => Answer::Refused(cause),
    }
}

/// Asks a running controller, from a command.
///
/// # Errors
///
/// `Ok(None)` if none runs there; an error if one does and does not answer.
pub fn ask(path: &Path, command: &Command) -> Result<Option<Answer>> {
    let Ok(mut stream) = BlockingStream::connect(path) else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(command)?;
    text.push(b'\n');
    stream.write_all(&text).with_context(|| format!("cannot write to {}", path.display()))?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .with_context(|| format!("no answer from {}", path.display()))?;
    let answer = serde_json::from_str(&line)
        .with_context(|| format!("{} speaks another language", path.display()))?;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_watched_stands_in_the_request() {
        let text = r#"{"command":"watch","call_id":"abc","service":null,"packets":true}"#;
        let wanted = Wanted { call_id: Some("abc".to_owned()), service: None, packets: true };
        assert_eq!(serde_json::to_string(&Command::Watch(wanted.clone())).unwrap(), text);
        assert_eq!(serde_json::from_str::<Command>(text).unwrap(), Command::Watch(wanted));
        let unknown = r#"{"command":"watch","packets":true,"user":"abc"}"#;
        assert!(serde_json::from_str::<Command>(unknown).is_err());
    }
}
