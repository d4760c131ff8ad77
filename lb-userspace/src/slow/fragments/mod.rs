//! Fragments that came before the one they follow.
//!
//! The program hands them over; here they wait, at most a second, until its record says that it is
//! their turn. Then the program gets them a second time, does with them what it would have done, and
//! what comes out of it is sent on. So there is one place that decides and rewrites.

mod holder;
mod parse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use lb_common::fragment::{Key, Record};
use tracing::debug;

pub use self::{
    holder::{Holder, Limits},
    parse::{Arrival, arrival},
};
use super::{Action, Consumer, Fate, Handed, Kind};
use crate::datapath::{Result, fragments::Held, private::Private, testrun};

/// Datagrams that a tick looks at: of 4,096 that wait, each is looked at in 80 ms.
const VISITS: usize = 256;

/// The program and its records.
pub trait Datapath: Send {
    /// What is remembered of a datagram.
    ///
    /// # Errors
    ///
    /// What the kernel says to the read.
    fn record(&self, key: &Key) -> Result<Option<Record>>;

    /// Gives the program a frame once more.
    ///
    /// # Errors
    ///
    /// What the kernel says to the run.
    fn run(&mut self, frame: &[u8], ingress: u32) -> Result<(testrun::Action, Vec<u8>)>;
}

impl Datapath for Held {
    fn record(&self, key: &Key) -> Result<Option<Record>> {
        Self::record(self, key)
    }

    fn run(&mut self, frame: &[u8], ingress: u32) -> Result<(testrun::Action, Vec<u8>)> {
        Self::run(self, frame, ingress)
    }
}

impl Datapath for Private {
    fn record(&self, key: &Key) -> Result<Option<Record>> {
        self.fragments.get(key)
    }

    fn run(&mut self, frame: &[u8], ingress: u32) -> Result<(testrun::Action, Vec<u8>)> {
        Self::run(self, frame, Some(ingress)).map(|result| (result.action, result.frame_out))
    }
}

/// Holds fragments for the live program.
#[derive(Debug)]
pub struct Fragments<D> {
    datapath: D,
    holder: Holder,
    /// The datagram that the last tick looked at last.
    visited: Option<Key>,
}

impl<D: Datapath> Fragments<D> {
    #[must_use]
    pub fn new(datapath: D, limits: Limits) -> Self {
        Self { datapath, holder: Holder::new(limits), visited: None }
    }
}

impl<D: Datapath> Consumer for Fragments<D> {
    fn take(&mut self, packet: &Handed<'_>, now: Duration, out: &mut Vec<Action>) -> Fate {
        let fate = hold(&mut self.holder, packet, now);
        // Its record may be there by now. Of the others a tick sees.
        if fate == Fate::Held
            && let Some(arrival) = arrival(packet.frame)
        {
            release_of(&mut self.holder, &mut self.datapath, &arrival.key, out);
        }
        fate
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        for key in self.holder.keys_after(self.visited, VISITS) {
            release_of(&mut self.holder, &mut self.datapath, &key, out);
            self.visited = Some(key);
        }
        for _ in 0..self.holder.expire(now) {
            out.push(Action::Count(Kind::Fragment, Fate::Dropped("expired")));
        }
    }

    fn is_waiting(&self) -> bool {
        !self.holder.is_empty()
    }
}

/// Takes a fragment into the holder.
pub fn hold(holder: &mut Holder, packet: &Handed<'_>, now: Duration) -> Fate {
    if packet.is_cut() {
        return Fate::Dropped("cut");
    }
    let Some(arrival) = arrival(packet.frame) else { return Fate::Dropped("no-fragment") };
    match holder.put(arrival, packet.record.ingress, packet.frame.to_vec(), now) {
        Ok(()) => Fate::Held,
        Err(why) => Fate::Dropped(why.reason()),
    }
}

/// Gives the program every held fragment whose turn it is.
pub fn release<D: Datapath>(holder: &mut Holder, datapath: &mut D, out: &mut Vec<Action>) {
    for key in holder.keys() {
        release_of(holder, datapath, &key, out);
    }
}

/// The same for one datagram.
fn release_of<D: Datapath>(
    holder: &mut Holder,
    datapath: &mut D,
    key: &Key,
    out: &mut Vec<Action>,
) {
    loop {
        let record = match datapath.record(key) {
            Ok(record) => record,
            Err(cause) => {
                debug!("a fragment waits on: {cause}");
                break;
            }
        };
        let Some((ingress, frame)) = holder.next(key, record.as_ref()) else { break };
        let fate = match datapath.run(&frame, ingress) {
            Ok((action, frame)) => sent(action, &frame, out),
            Err(cause) => {
                debug!("a held fragment is lost: {cause}");
                Fate::Dropped("not-run")
            }
        };
        out.push(Action::Count(Kind::Fragment, fate));
    }
}

/// Sends what came out of the program.
fn sent(action: testrun::Action, frame: &[u8], out: &mut Vec<Action>) -> Fate {
    let packet = match action {
        testrun::Action::Tx | testrun::Action::Redirect => parse::packet(frame),
        // The kernel's routing would take one from the hop limit; a raw socket does not.
        testrun::Action::Pass => parse::one_hop_further(frame),
        testrun::Action::Drop => return Fate::Dropped("by-program"),
        testrun::Action::Aborted | testrun::Action::Unknown(_) => None,
    };
    match packet {
        Some(packet) => {
            out.push(Action::Send(packet));
            Fate::Forwarded
        }
        None => Fate::Dropped("not-sent"),
    }
}
