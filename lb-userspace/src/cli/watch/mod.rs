//! `sip-lb capture` and `sip-lb trace`.

mod capture;
mod pcapng;
mod text;
mod trace;

pub(super) use self::{
    capture::{CaptureArgs, run as capture},
    trace::{TraceArgs, run as trace},
};

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};

use super::{exit, not_running};
use crate::{
    admin::socket::Command,
    watch::{Said, Sight, Wanted},
};

/// How long the running instance may take to say what was lost.
const PARTING: Duration = Duration::from_secs(2);

/// What is made of the packets that are shown.
trait Sink {
    /// Called when packets are shown from now on.
    fn begin(&mut self) -> Result<()>;

    /// Takes a packet in.
    fn see(&mut self, sight: &Sight) -> io::Result<()>;
}

/// How it came to an end.
enum Ended {
    /// By a signal, by `--count`, or by a reader that has seen enough.
    Here,
    /// The running instance has ended.
    There,
}

/// Watches until a signal or `count` packets; returns the exit code.
fn follow(socket: &Path, wanted: Wanted, count: Option<u64>, sink: &mut dyn Sink) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(converse(socket, wanted, count, sink))
}

async fn converse(
    socket: &Path,
    wanted: Wanted,
    count: Option<u64>,
    sink: &mut dyn Sink,
) -> Result<u8> {
    // Before anything is on, so that no signal ends this without a word.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let Ok(stream) = UnixStream::connect(socket).await else { return not_running(socket) };
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(&Command::Watch(wanted))?;
    text.push(b'\n');
    write
        .write_all(&text)
        .await
        .with_context(|| format!("cannot write to {}", socket.display()))?;

    let mut lines = BufReader::new(read).lines();
    let mut seen = 0;
    let ended = loop {
        let line = tokio::select! {
            line = lines.next_line() => line,
            _ = interrupt.recv() => break Ended::Here,
            _ = terminate.recv() => break Ended::Here,
        };
        let Ok(Some(line)) = line else { break Ended::There };
        match read_line(socket, &line)? {
            Said::Watching => sink.begin()?,
            Said::Refused(why) => {
                eprintln!("sip-lb: refused: {why}");
                return Ok(exit::REFUSED);
            }
            Said::Seen(sight) => {
                match sink.see(&sight) {
                    Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => break Ended::Here,
                    result => result.context("cannot write what was seen")?,
                }
                seen += 1;
                if count == Some(seen) {
                    break Ended::Here;
                }
            }
            Said::End { .. } => bail!("{} has ended without being asked to", socket.display()),
        }
    };
    let packets = if seen == 1 { "packet" } else { "packets" };
    match ended {
        Ended::There => {
            eprintln!("sip-lb: the running instance has ended; {seen} {packets} seen until then");
            return Ok(exit::NOT_RUNNING);
        }
        Ended::Here => {}
    }
    write.shutdown().await.ok();
    let lost = tokio::time::timeout(PARTING, async {
        while let Ok(Some(line)) = lines.next_line().await {
            match read_line(socket, &line)? {
                Said::End { lost } => return Ok(Some(lost)),
                // Those that were on their way are shown, unless enough were.
                Said::Seen(sight) if count.is_none() => {
                    if sink.see(&sight).is_ok() {
                        seen += 1;
                    }
                }
                Said::Seen(_) | Said::Watching | Said::Refused(_) => {}
            }
        }
        Result::<_>::Ok(None)
    });
    let lost = match lost.await {
        Ok(lost) => lost?,
        Err(_late) => None,
    };
    let packets = if seen == 1 { "packet" } else { "packets" };
    match lost {
        Some(0) => eprintln!("sip-lb: {seen} {packets} seen, none lost"),
        Some(lost) => eprintln!(
            "sip-lb: {seen} {packets} seen, {lost} lost: more than are handed over in a second, or \
             than were read in time; ask for one dialog or service"
        ),
        None => eprintln!("sip-lb: {seen} {packets} seen; how many were lost was not said"),
    }
    Ok(exit::DONE)
}

fn read_line(socket: &Path, line: &str) -> Result<Said> {
    serde_json::from_str(line)
        .with_context(|| format!("{} speaks another language", socket.display()))
}
