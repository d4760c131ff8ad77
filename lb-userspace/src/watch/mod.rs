//! Watching packets and decisions: what `capture` and `trace` show.
//!
//! ```text
//! program (datapath/watch.rs) ─ WATCHED, a ring for each CPU ─ hub ─ stream ─ admin socket ─ cli/watch
//!                          503 of the slow path ───────────────┘
//! ```
//!
//! Whoever connects and asks gets a slot; the program is told by slot what to hand over, and the hub
//! gives every [`Sight`] to the slots that it is for. A watcher that ends, however it ends, frees its
//! slot; the last one takes the watching program off the interfaces.

pub mod datagrams;
pub mod hub;
pub mod sight;
pub mod stream;

use lb_common::{
    hash::HashKey,
    sip::{self, Payload},
    watch::{Filter, wants},
};
use serde::{Deserialize, Serialize};

pub use sight::Sight;

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Only this dialog.
    pub call_id: Option<String>,
    /// Only what is for or from this service.
    pub service: Option<String>,
    /// The packets themselves, too.
    pub packets: bool,
}

/// What the running instance says to a watcher, one a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// From now on packets are shown.
    Watching,
    /// Why not.
    Refused(String),
    Seen(Box<Sight>),
    /// The watcher has ended its side: packets that were not shown to it, though it wanted them.
    End {
        lost: u64,
    },
}

impl Wanted {
    /// For the program, given the hash key and the service's id.
    ///
    /// # Errors
    ///
    /// If this cannot be the Call-ID of a message.
    pub fn filter(&self, key: HashKey, service: u16) -> Result<Filter, String> {
        let mut filter = Filter {
            service,
            wants: if self.packets { wants::PACKETS } else { wants::DECISIONS },
            ..Filter::default()
        };
        if let Some(text) = &self.call_id {
            let bytes = text.as_bytes();
            let found = sip::call_id(&Payload::new(bytes), 0, key).flatten();
            let whole = found.filter(|found| {
                let most = bytes.len().min(sip::MAX_LENGTH as usize);
                found.offset == 0 && found.length as usize == most
            });
            let Some(id) = whole else {
                return Err(format!("{text:?} is no Call-ID: it is empty or has a blank in it"));
            };
            filter.hash = id.hash;
            filter.by_call = 1;
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey { k0: 1, k1: 2 };

    fn filter(call_id: &str) -> Result<Filter, String> {
        let wanted = Wanted { call_id: Some(call_id.to_owned()), ..Wanted::default() };
        wanted.filter(KEY, 3)
    }

    #[test]
    fn a_call_id_is_hashed_as_the_program_hashes_it() {
        let long = "x".repeat(700);
        for id in ["a84b4c76e66710@pc33", "b", "exactly-32-bytes-long-0123456789", &long] {
            let message = format!("OPTIONS sip:a SIP/2.0\r\nCall-ID: {id}\r\n\r\n");
            let payload = Payload::new(message.as_bytes());
            let value = sip::find_call_id(&payload, 0).unwrap();
            let read = sip::call_id(&payload, value, KEY).unwrap().unwrap();
            let filter = filter(id).unwrap();
            assert_eq!((filter.hash, filter.by_call, filter.service), (read.hash, 1, 3), "{id}");
        }
        let all = Wanted { packets: true, ..Wanted::default() }.filter(KEY, 0).unwrap();
        assert_eq!((all.by_call, all.service, all.wants), (0, 0, wants::PACKETS));
    }

    #[test]
    fn what_no_call_id_can_be_is_refused() {
        for id in ["", " ", "a b", " a", "a ", "a\r\nb"] {
            let refused = filter(id).unwrap_err();
            assert!(refused.contains("no Call-ID"), "{id:?}: {refused}");
        }
    }
}
