//! What the controller is told, and what it answers.

use std::collections::BTreeMap;

use lb_common::slow::Kind;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    config::model::Admin,
    datapath::{
        counters::{EventCounts, VerdictCounts},
        live::RunTime,
        sweep::{Census, Cleared},
        watch::Loaded,
    },
    slow::Fate,
    status::Status,
    watch::{Wanted, stream::Join},
};

/// A request from the admin socket or the HTTP server.
#[derive(Debug)]
pub enum Request {
    /// For `status` and the metrics.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Read the configuration again; `Err` says why the running one goes on.
    Reload(oneshot::Sender<Result<String, String>>),
    /// Drain a backend or take that back; `Err` says why not.
    Wish(Wish, oneshot::Sender<Result<String, String>>),
    /// Show packets; with the program that does so, if it had to be loaded first.
    Watch(Wanted, Option<Loaded>, oneshot::Sender<Join>),
    /// Show no more to this slot; the answer is how many packets were lost that it wanted.
    Unwatch(usize, oneshot::Sender<u64>),
    /// How many calls the backend of this service and name still has.
    Remaining(String, String, oneshot::Sender<Result<Remaining, String>>),
}

/// What the operator wants of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub service: String,
    pub backend: String,
    /// True = no new dialogs; false = take that back.
    pub drain: bool,
}

/// What a backend still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// Answered INVITEs without a BYE.
    pub calls: u64,
    /// INVITEs without a final answer.
    pub ringing: u64,
    /// What is in force.
    pub admin: Admin,
    /// Sweeps of the dialog table that have begun so far, and the number of the one that has found
    /// the above.
    pub sweeps_begun: u64,
    pub last_sweep: u64,
}

/// Everything that can be seen of a running controller.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub status: Status,
    pub verdicts: VerdictCounts,
    pub events: EventCounts,
    /// What the controller took from the slow path, by kind and by what became of it.
    pub slow_path: BTreeMap<(Kind, Fate), u64>,
    /// Packets lost on the slow path, by place.
    pub slow_path_lost: [(&'static str, u64); 4],
    /// Traffic by service and backend.
    pub traffic: Vec<Traffic>,
    /// The last finished sweep of the dialog table.
    pub census: Census,
    /// What the sweeps of this controller have cleared.
    pub cleared: Cleared,
    /// Entries that the table has room for.
    pub dialog_capacity: u64,
    pub reloads: Reloads,
    /// Runs and nanoseconds of the XDP program; `None` without `--bpf-stats`.
    pub program: Option<RunTime>,
    /// True once every interface is attached and the maps say what the configuration wants.
    pub ready: bool,
}

/// Packets and bytes of one backend of one service, all of its listeners together.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub service: String,
    pub backend: String,
    pub stats: lb_common::stats::BindingStats,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    pub succeeded: u64,
    pub failed: u64,
    /// Seconds since the epoch of the last configuration that was taken.
    pub last_success: u64,
}
