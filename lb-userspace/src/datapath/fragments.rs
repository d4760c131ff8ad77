//! What the program remembers of datagrams in fragments, and frames that it is given a second time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    maps::{HashMap, Map, MapData, MapError},
    programs::Xdp,
};
use lb_common::{
    fragment::{Key, Record},
    maps::name,
};

use super::{
    error::{Error, Result},
    testrun::{self, Action},
};
use crate::maps::kernel::Open;

/// The records, by datagram.
pub(crate) struct Fragments(HashMap<MapData, Key, Record>);

impl fmt::Debug for Fragments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name::FRAGMENTS)
    }
}

impl Fragments {
    pub(crate) fn open(open: &mut Open<'_>) -> Result<Self> {
        let what = || format!("open map {}", name::FRAGMENTS);
        let map = Map::from_map_data(open(name::FRAGMENTS)?)
            .map_err(|cause| Error::aya(what(), cause))?;
        HashMap::try_from(map).map(Self).map_err(|cause| Error::aya(what(), cause))
    }

    /// The record of a datagram; `None` if its first fragment has not come.
    ///
    /// # Errors
    ///
    /// What the kernel says to the read.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Record>> {
        match self.0.get(key, 0) {
            Ok(record) => Ok(Some(record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(cause) => Err(Error::aya(format!("read map {}", name::FRAGMENTS), cause)),
        }
    }
}

/// The live program, for fragments that were held until their turn.
#[derive(Debug)]
pub struct Held {
    pub(crate) records: Fragments,
    pub(crate) balancer: Current,
}

/// The program that is live now, which [`super::live::Live`] exchanges while somebody watches.
#[derive(Clone, Debug)]
pub(crate) struct Current(Arc<Mutex<Xdp>>);

impl Current {
    pub(crate) fn new(balancer: Xdp) -> Self {
        Self(Arc::new(Mutex::new(balancer)))
    }

    pub(crate) fn set(&self, balancer: Xdp) {
        *self.lock() = balancer;
    }

    fn lock(&self) -> MutexGuard<'_, Xdp> {
        // A program is replaced as a whole: no half state is left behind by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What the program remembers of a datagram.
    ///
    /// # Errors
    ///
    /// What the kernel says to the read.
    pub fn record(&self, key: &Key) -> Result<Option<Record>> {
        self.records.get(key)
    }

    /// Gives the program a frame that came in by interface `ingress`; see [`testrun::run`].
    ///
    /// # Errors
    ///
    /// As [`testrun::run`].
    pub fn run(&self, frame: &[u8], ingress: u32) -> Result<(Action, Vec<u8>)> {
        testrun::run(&self.balancer.lock(), frame, Some(ingress))
    }
}
