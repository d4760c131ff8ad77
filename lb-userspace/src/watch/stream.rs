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
    let shown = show(&mut read, &mut write, &mut seat, requests).await;
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
    requests: &mpsc::Sender<Request>,
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
    // What has been handed over is shown, or counted as lost.
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Quiet(seat.slot, reply)).await?;
    answer.await?;
    seat.drained().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sight::tests::sight;

    fn at(time: u64) -> Arc<Sight> {
        Arc::new(Sight { time, ..sight() })
    }

    fn times(sights: &[Arc<Sight>]) -> Vec<u64> {
        sights.iter().map(|sight| sight.time).collect()
    }

    #[test]
    fn packets_of_several_cpus_come_out_in_the_order_of_time() {
        let mut sorter = Sorter::default();
        let start = Instant::now();
        assert_eq!(sorter.due(), None);
        sorter.push(at(30), start);
        sorter.push(at(10), start + SORTING / 2);
        sorter.push(at(20), start + SORTING / 2);
        sorter.push(at(20), start + SORTING / 2);
        assert_eq!(sorter.due(), Some(start + SORTING / 2 + SORTING), "of the earliest");
        assert!(sorter.take(start + SORTING).is_empty(), "what is before 30 may still be followed");
        assert_eq!(times(&sorter.take(start + SORTING * 2)), [10, 20, 20, 30]);
        sorter.push(at(50), start);
        sorter.push(at(40), start);
        assert_eq!(times(&sorter.rest()), [40, 50]);
        assert!(sorter.rest().is_empty());
    }

    /// A controller that loads nothing and shows what it is given.
    fn controller(mut requests: mpsc::Receiver<Request>, sights: Vec<Arc<Sight>>) {
        tokio::spawn(async move {
            let mut last = None;
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Watch(wanted, _, reply) if wanted.service.is_none() => {
                        let (out, queue) = mpsc::channel(16);
                        for sight in &sights {
                            out.try_send(Arc::clone(sight)).unwrap();
                        }
                        // It stays open until the seat is given back.
                        last = Some(out);
                        let seat = Seat { slot: 5, sights: queue, readers: Vec::new() };
                        drop(reply.send(Join::Seat(seat)));
                    }
                    Request::Watch(_, _, reply) => {
                        drop(reply.send(Join::Refused("no such service".to_owned())));
                    }
                    Request::Quiet(5, reply) => {
                        // This lay in a ring.
                        last.as_ref().unwrap().try_send(at(3)).unwrap();
                        let _gone = reply.send(());
                    }
                    Request::Unwatch(5, reply) => drop(reply.send(7)),
                    Request::Snapshot(_)
                    | Request::Reload(_)
                    | Request::Wish(..)
                    | Request::Quiet(..)
                    | Request::Unwatch(..)
                    | Request::Remaining(..) => panic!("an unexpected request"),
                }
            }
        });
    }

    async fn run(wanted: Wanted, end: bool) -> Vec<Said> {
        let (requests, inbox) = mpsc::channel(4);
        controller(inbox, vec![at(2), at(1)]);
        let (client, server) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(server);
        let (mut from, mut to) = tokio::io::split(client);
        let task = tokio::spawn(async move { serve(read, write, wanted, &requests).await });
        if end {
            tokio::time::sleep(SORTING * 4).await;
        }
        to.shutdown().await.unwrap();
        let mut text = String::new();
        from.read_to_string(&mut text).await.unwrap();
        task.await.unwrap().unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_watcher_is_shown_packets_and_told_at_its_end_what_was_lost() {
        for end in [true, false] {
            let said = run(Wanted::default(), end).await;
            let seen = |time| Said::Seen(Box::new(Sight { time, ..sight() }));
            let said: [Said; 5] = said.try_into().unwrap();
            assert_eq!(said, [Said::Watching, seen(1), seen(2), seen(3), Said::End { lost: 7 }]);
        }
        let other = Wanted { service: Some("none".to_owned()), ..Wanted::default() };
        assert_eq!(run(other, true).await, [Said::Refused("no such service".to_owned())]);
    }

    #[tokio::test]
    async fn the_slot_of_a_watcher_that_is_gone_is_given_back() {
        let (requests, mut inbox) = mpsc::channel(4);
        let (client, server) = tokio::io::duplex(64);
        let (read, write) = tokio::io::split(server);
        let task =
            tokio::spawn(async move { serve(read, write, Wanted::default(), &requests).await });
        let Some(Request::Watch(_, None, reply)) = inbox.recv().await else { panic!() };
        let (out, sights) = mpsc::channel(16);
        reply.send(Join::Seat(Seat { slot: 2, sights, readers: Vec::new() })).unwrap();
        // Killed while it is written to, more than it can take.
        for time in 0..16 {
            out.try_send(at(time)).unwrap();
        }
        drop(client);
        let reply = loop {
            let request = inbox.recv().await.unwrap();
            if let Request::Unwatch(2, reply) = request {
                break reply;
            }
            let Request::Quiet(2, reply) = request else { panic!("an unexpected request") };
            reply.send(()).unwrap();
        };
        reply.send(0).unwrap();
        assert!(task.await.unwrap().is_err(), "nobody to say good-bye to");
    }
}
