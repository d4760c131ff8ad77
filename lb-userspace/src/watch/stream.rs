//! A watcher at the admin socket, from its request to its end.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};

use super::{Said, Sight, Wanted, hub::Seat};
use crate::{
    datapath::watch::{Loaded, Plan},
    event::Request,
};

/// CPUs hand over apart; for so long packets wait for earlier ones.
const SORTING: Duration = Duration::from_millis(50);

/// What the controller answers to who wants to watch.
#[derive(Debug)]
pub enum Join {
    Seat(Seat),
    /// First load this, then ask again.
    Load(Plan),
    Refused(String),
}

/// Serves a watcher until it ends its side, or is gone.
pub async fn serve(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    wanted: Wanted,
    requests: &mpsc::Sender<Request>,
) -> Result<()> {
    let mut seat = match join(wanted, requests).await? {
        Ok(seat) => seat,
        Err(why) => return say(&mut write, &Said::Refused(why)).await,
    };
    let shown = show(&mut read, &mut write, &mut seat).await;
    // Whatever has happened: the slot is to be free again.
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Unwatch(seat.slot, reply)).await?;
    let lost = answer.await?;
    shown?;
    say(&mut write, &Said::End { lost }).await
}

/// Gets a slot, and loads the program if it is the first.
async fn join(
    wanted: Wanted,
    requests: &mpsc::Sender<Request>,
) -> Result<std::result::Result<Seat, String>> {
    let mut loaded: Option<Loaded> = None;
    // The program that was there may be gone at the second time, not at every one.
    for _ in 0..4 {
        let (reply, answer) = oneshot::channel();
        requests.send(Request::Watch(wanted.clone(), loaded.take(), reply)).await?;
        match answer.await? {
            Join::Seat(seat) => return Ok(Ok(seat)),
            Join::Refused(why) => return Ok(Err(why)),
            Join::Load(plan) => {
                let load = tokio::task::spawn_blocking(move || plan.load());
                match load.await.context("loading was interrupted")? {
                    Ok(program) => loaded = Some(program),
                    Err(cause) => {
                        let why = format!("the program that watches cannot be loaded: {cause}");
                        return Ok(Err(why));
                    }
                }
            }
        }
    }
    Ok(Err("others begin and end to watch all the time: try again".to_owned()))
}

async fn show(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    seat: &mut Seat,
) -> Result<()> {
    say(write, &Said::Watching).await?;
    let mut sorter = Sorter::default();
    let mut nothing = [0; 16];
    loop {
        let due = sorter.due();
        let pause = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            sight = seat.sights.recv() => match sight {
                Some(sight) => sorter.push(sight, Instant::now()),
                None => break,
            },
            () = pause => write_all(write, sorter.take(Instant::now())).await?,
            // It has nothing to say, so this is its end.
            end = read.read(&mut nothing) => if end.unwrap_or(0) == 0 { break },
        }
    }
    while let Ok(sight) = seat.sights.try_recv() {
        sorter.push(sight, Instant::now());
    }
    write_all(write, sorter.rest()).await
}

async fn write_all(write: &mut (impl AsyncWrite + Unpin), sights: Vec<Arc<Sight>>) -> Result<()> {
    for sight in sights {
        say(write, &Said::Seen(Box::new(Arc::unwrap_or_clone(sight)))).await?;
    }
    Ok(())
}

async fn say(write: &mut (impl AsyncWrite + Unpin), said: &Said) -> Result<()> {
    let mut text = serde_json::to_vec(said)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    Ok(())
}

/// Puts packets in the order of time.
#[derive(Debug, Default)]
struct Sorter {
    waiting: BTreeMap<(u64, u64), (Instant, Arc<Sight>)>,
    pushed: u64,
}

impl Sorter {
    fn push(&mut self, sight: Arc<Sight>, now: Instant) {
        self.pushed += 1;
        self.waiting.insert((sight.time, self.pushed), (now, sight));
    }

    /// When the earliest packet has waited long enough.
    fn due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (since, _))| *since + SORTING)
    }

    /// Those that have waited long enough, in order.
    fn take(&mut self, now: Instant) -> Vec<Arc<Sight>> {
        let mut ready = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            if first.get().0 + SORTING > now {
                break;
            }
            ready.push(first.remove().1);
        }
        ready
    }

    fn rest(&mut self) -> Vec<Arc<Sight>> {
        std::mem::take(&mut self.waiting).into_values().map(|(_, sight)| sight).collect()
    }
}
