//! From the rings to the consumers while the controller runs.
//!
//! A task for each ring copies packets into one queue, of which another task gives them to the
//! consumers and sends what they say. A full queue drops and counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_common::slow::{Kind, Record};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tracing::{error, warn};

use super::{Action, Consumers, Fate, Handed, rings::Ring, send::Sender};
use crate::watch::hub::Hub;

/// Packets that may wait for the consumers.
const QUEUE: usize = 4096;
/// Between two looks at what is overdue.
const TICK: Duration = Duration::from_millis(100);
/// The same while a consumer waits for something.
const SHORT_TICK: Duration = Duration::from_millis(5);

/// What was handed over and what became of it, counted since the controller started.
#[derive(Debug, Default)]
pub struct Counts {
    taken: Mutex<BTreeMap<(Kind, Fate), u64>>,
    /// Packets that found a ring full.
    ring_full: AtomicU64,
    queue_full: AtomicU64,
    unreadable: AtomicU64,
    send_errors: AtomicU64,
}

impl Counts {
    fn took(&self, kind: Kind, fate: Fate) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken.entry((kind, fate)).or_default() += 1;
    }

    /// Packets by kind and what became of them.
    #[must_use]
    pub fn taken(&self) -> BTreeMap<(Kind, Fate), u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Packets that were lost on the way, by the place where.
    #[must_use]
    pub fn lost(&self) -> [(&'static str, u64); 4] {
        [
            ("ring", self.ring_full.load(Ordering::Relaxed)),
            ("queue", self.queue_full.load(Ordering::Relaxed)),
            ("unreadable", self.unreadable.load(Ordering::Relaxed)),
            ("send", self.send_errors.load(Ordering::Relaxed)),
        ]
    }
}

/// A packet in the queue.
struct Queued {
    kind: Kind,
    record: Record,
    frame: Vec<u8>,
}

/// Starts the tasks; they end with the runtime.
///
/// # Errors
///
/// If the runtime cannot wait for a ring.
pub fn start(
    rings: Vec<Ring>,
    consumers: Consumers,
    sender: Sender,
    counts: &Arc<Counts>,
    hub: &Arc<Hub>,
) -> Result<()> {
    let (queue, waiting) = mpsc::channel(QUEUE);
    for ring in rings {
        let ring = ring.wait().context("cannot wait for packets of the XDP program")?;
        tokio::spawn(read(ring, queue.clone(), Arc::clone(counts)));
    }
    tokio::spawn(serve(waiting, consumers, sender, Arc::clone(counts), Arc::clone(hub)));
    Ok(())
}

async fn read(mut ring: AsyncFd<Ring>, queue: mpsc::Sender<Queued>, counts: Arc<Counts>) {
    loop {
        let mut guard = match ring.readable_mut().await {
            Ok(guard) => guard,
            Err(cause) => return error!("cannot wait for packets of the XDP program: {cause}"),
        };
        // Before reading, so that what comes meanwhile wakes this task again.
        guard.clear_ready();
        let lost = guard.get_inner_mut().drain(|packet| {
            let queued =
                Queued { kind: packet.kind, record: *packet.record, frame: packet.frame.to_vec() };
            if queue.try_send(queued).is_err() {
                counts.queue_full.fetch_add(1, Ordering::Relaxed);
            }
        });
        counts.ring_full.fetch_add(lost.full, Ordering::Relaxed);
        counts.unreadable.fetch_add(lost.unreadable, Ordering::Relaxed);
    }
}

async fn serve(
    mut waiting: mpsc::Receiver<Queued>,
    mut consumers: Consumers,
    sender: Sender,
    counts: Arc<Counts>,
    hub: Arc<Hub>,
) {
    let origin = Instant::now();
    let mut last = Instant::now();
    let mut actions = Vec::new();
    loop {
        // What is answered, for those who watch.
        let mut request = None;
        let pause = if consumers.are_waiting() { SHORT_TICK } else { TICK };
        tokio::select! {
            packet = waiting.recv() => {
                let Some(packet) = packet else { return };
                let handed =
                    Handed { kind: packet.kind, record: &packet.record, frame: &packet.frame };
                let fate = consumers.take(&handed, origin.elapsed(), &mut actions);
                counts.took(packet.kind, fate);
                if fate == Fate::Answered {
                    request = Some(packet);
                }
            }
            () = tokio::time::sleep_until((last + pause).into()) => {
                last = Instant::now();
                consumers.tick(origin.elapsed(), &mut actions);
            }
        }
        for action in actions.drain(..) {
            match action {
                Action::Send(packet) => match (sender.send(&packet), &request) {
                    (Err(cause), _) => {
                        // One line at first; the counter tells how many more.
                        if counts.send_errors.fetch_add(1, Ordering::Relaxed) == 0 {
                            warn!("cannot send a packet of the slow path: {cause}");
                        }
                    }
                    (Ok(()), Some(request)) => {
                        hub.answered(&request.record, &request.frame, &packet);
                    }
                    (Ok(()), None) => {}
                },
                Action::Count(kind, fate) => counts.took(kind, fate),
            }
        }
    }
}
