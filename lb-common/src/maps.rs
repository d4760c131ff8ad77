//! Names, capacities and the layout version of the maps.

use crate::{
    backend::{Binding, Endpoint, Route},
    clock::Clock,
    dialog, fragment,
    hash::HashKey,
    index::{self, Slot},
    service::{Interface, Listener, Name},
    slow::{Desk, Record},
    stats::{BindingStats, Load},
    table::{self, MemberOrder},
    verdict::Decision,
    watch,
};

/// Settings that the whole program shares.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Settings {
    pub key: HashKey,
    /// Valid rows of the route map.
    pub routes: u32,
    pub pad_routes: u32,
    /// Jiffies after the last heartbeat at which the program passes everything; 0 = never.
    pub lost_after: u64,
    pub pad: [u64; 4],
}
const _: () = assert!(size_of::<Settings>() == 64);

/// Every map, by the name it has in the object and below the pin directory.
pub mod name {
    pub const SETTINGS: &str = "SETTINGS";
    pub const CLOCK: &str = "CLOCK";
    pub const HEARTBEAT: &str = "HEARTBEAT";
    pub const PORTS: &str = "PORTS";
    pub const LISTENER_INDEX: &str = "LISTENER_INDEX";
    pub const ENDPOINT_INDEX: &str = "ENDPOINT_INDEX";
    pub const HOST_INDEX: &str = "HOST_INDEX";
    pub const RULE_INDEX: &str = "RULE_INDEX";
    pub const ADDRESS_INDEX: &str = "ADDRESS_INDEX";
    pub const SENDER_INDEX: &str = "SENDER_INDEX";
    pub const INTERFACES: &str = "INTERFACES";
    pub const LISTENERS: &str = "LISTENERS";
    pub const ENDPOINTS: &str = "ENDPOINTS";
    pub const BINDINGS: &str = "BINDINGS";
    pub const ROUTES: &str = "ROUTES";
    pub const CHOICES: &str = "CHOICES";
    pub const MEMBERS: &str = "MEMBERS";
    pub const MEMBER_ORDERS: &str = "MEMBER_ORDERS";
    pub const TABLES: &str = "TABLES";
    pub const TOUCHED: &str = "TOUCHED";
    pub const DIALOGS: &str = "DIALOGS";
    pub const FRAGMENTS: &str = "FRAGMENTS";
    pub const FRAGMENT_COUNT: &str = "FRAGMENT_COUNT";
    pub const FRAGMENT_DESK: &str = "FRAGMENT_DESK";
    pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
    pub const SET_NAMES: &str = "SET_NAMES";
    pub const BACKEND_NAMES: &str = "BACKEND_NAMES";
    pub const VERDICTS: &str = "VERDICTS";
    pub const EVENTS: &str = "EVENTS";
    pub const BINDING_STATS: &str = "BINDING_STATS";
    pub const LOADS: &str = "LOADS";
    pub const TURNS: &str = "TURNS";
    pub const QUERY: &str = "QUERY";
    pub const DECISION: &str = "DECISION";
    pub const SLOW_PATH: &str = "SLOW_PATH";
    pub const DESK: &str = "DESK";
    pub const WATCH: &str = "WATCH";
    pub const WATCH_DESK: &str = "WATCH_DESK";
    pub const WATCHED: &str = "WATCHED";

    /// Ring of aya-log: what the program itself has to say.
    pub const LOGS: &str = "AYA_LOGS";

    /// All of the above.
    pub const ALL: &[&str] = &[
        SETTINGS,
        CLOCK,
        HEARTBEAT,
        PORTS,
        LISTENER_INDEX,
        ENDPOINT_INDEX,
        HOST_INDEX,
        RULE_INDEX,
        ADDRESS_INDEX,
        SENDER_INDEX,
        INTERFACES,
        LISTENERS,
        ENDPOINTS,
        BINDINGS,
        ROUTES,
        CHOICES,
        MEMBERS,
        MEMBER_ORDERS,
        TABLES,
        TOUCHED,
        DIALOGS,
        FRAGMENTS,
        FRAGMENT_COUNT,
        FRAGMENT_DESK,
        SERVICE_NAMES,
        SET_NAMES,
        BACKEND_NAMES,
        VERDICTS,
        EVENTS,
        BINDING_STATS,
        LOADS,
        TURNS,
        QUERY,
        DECISION,
        SLOW_PATH,
        DESK,
        WATCH,
        WATCH_DESK,
        WATCHED,
        LOGS,
    ];
}

/// Names of the programs in the object.
pub mod program {
    /// The balancer.
    pub const SIP_LB: &str = "sip_lb";
    /// Run by the controller once a second (BPF_PROG_TEST_RUN): stores jiffies in HEARTBEAT.
    pub const HEARTBEAT: &str = "heartbeat";
}

/// Rows of [`name::PORTS`].
pub mod ports {
    /// Destination ports of listeners.
    pub const LISTENERS: u32 = 0;
    /// Source ports of endpoints.
    pub const ENDPOINTS: u32 = 1;
}

/// Bits of the ids in [`name::ADDRESS_INDEX`].
pub mod address {
    /// An address of a listener.
    pub const VIP: u16 = 1;
    /// An address of an endpoint.
    pub const BACKEND: u16 = 2;
}

/// A set of ports: bit `port % 64` of word `port / 64`.
pub type PortSet = [u64; 1024];

/// Bytes that the kernel adds to an entry of an LRU hash map (`struct htab_elem` and its bucket).
const FRAGMENT_OVERHEAD: u64 = 80;

/// Addresses of this host that the program knows; more are reported by the controller.
pub const HOST_ADDRESSES: u32 = 1024;

/// Methods and names of domain rules that there is room for, for each of `limits.services`; each
/// counts once for each VIP of its service.
pub const RULES_PER_SERVICE: u32 = 8;
/// Sets of such rules, likewise.
pub const RULE_SETS_PER_SERVICE: u32 = 4;
/// Entries of the index of senders that there is room for, for each binding: the backend's address,
/// and on average one more: an alias, or the endpoint itself if several listeners share it.
pub const SENDERS_PER_BINDING: u32 = 2;

/// Entries of each map whose size follows from the configuration's `limits` and `dialogs.max`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Capacities {
    pub services: u32,
    pub listeners: u32,
    pub endpoints: u32,
    pub bindings: u32,
    pub choices: u32,
    pub member_lists: u32,
    pub tables: u32,
    /// Lines of eight dialog entries.
    pub dialog_lines: u32,
    /// Datagrams in fragments that are remembered.
    pub fragments: u32,
}

impl Capacities {
    /// From the configuration; the entry 0 of each map is never used, hence the + 1.
    #[must_use]
    pub const fn new(
        services: u32,
        endpoints: u32,
        bindings: u32,
        tables: u32,
        dialogs: u32,
    ) -> Self {
        // A service has one listener for each of its VIPs; four on average are provided for.
        let listeners = services * 4;
        // The same for the sets of method and domain rules.
        let choices = listeners + services * RULE_SETS_PER_SERVICE;
        let entries = (dialogs * 2).next_power_of_two();
        Self {
            services: services + 1,
            listeners: listeners + 1,
            endpoints: endpoints + 1,
            bindings: bindings + 1,
            choices: choices + 1,
            member_lists: choices * 2 + 1,
            tables: tables * 2 + 1,
            dialog_lines: entries / dialog::WAYS as u32,
            fragments: 8192,
        }
    }

    /// Entries of the index of rules.
    #[must_use]
    pub const fn rules(&self) -> u32 {
        (self.services - 1) * RULES_PER_SERVICE
    }

    /// The same, with another number of datagrams in fragments than the default.
    #[must_use]
    pub const fn with_fragments(self, fragments: u32) -> Self {
        Self { fragments, ..self }
    }

    /// Addresses of listeners and endpoints that there may be.
    #[must_use]
    pub const fn addresses(&self) -> u32 {
        self.listeners + self.endpoints
    }

    /// Entries of the index of senders.
    #[must_use]
    pub const fn senders(&self) -> u32 {
        self.bindings.saturating_sub(1) * SENDERS_PER_BINDING
    }

    /// `(map, entries)` for every map whose size depends on the configuration.
    #[must_use]
    pub const fn entries(&self) -> [(&'static str, u32); 21] {
        [
            (name::LISTENER_INDEX, index::slots(self.listeners)),
            (name::ENDPOINT_INDEX, index::slots(self.endpoints)),
            (name::HOST_INDEX, index::slots(HOST_ADDRESSES)),
            (name::RULE_INDEX, index::slots(self.rules())),
            (name::ADDRESS_INDEX, index::slots(self.addresses())),
            (name::SENDER_INDEX, index::slots(self.senders())),
            (name::LISTENERS, self.listeners),
            (name::ENDPOINTS, self.endpoints),
            (name::BINDINGS, self.bindings),
            (name::CHOICES, self.choices),
            (name::MEMBERS, self.member_lists),
            (name::MEMBER_ORDERS, self.member_lists),
            (name::TABLES, self.tables),
            (name::TOUCHED, self.services),
            (name::DIALOGS, self.dialog_lines),
            (name::FRAGMENTS, self.fragments),
            (name::SERVICE_NAMES, self.services),
            (name::SET_NAMES, self.choices),
            (name::BACKEND_NAMES, self.bindings),
            (name::LOADS, self.bindings),
            (name::TURNS, self.choices),
        ]
    }

    /// Bytes of kernel memory that the maps take, per-CPU counters for `cpus` CPUs included.
    #[must_use]
    pub const fn memory(&self, cpus: u64) -> u64 {
        let slots = index::slots(self.listeners)
            + index::slots(self.endpoints)
            + index::slots(HOST_ADDRESSES)
            + index::slots(self.rules())
            + index::slots(self.addresses())
            + index::slots(self.senders());
        slots as u64 * size_of::<Slot>() as u64
            + self.listeners as u64 * size_of::<Listener>() as u64
            + self.endpoints as u64 * size_of::<Endpoint>() as u64
            + self.bindings as u64 * (size_of::<Binding>() + size_of::<Name>()) as u64
            + self.choices as u64 * (size_of::<table::Choice>() + size_of::<Name>()) as u64
            + self.member_lists as u64
                * (size_of::<table::Members>() + size_of::<[MemberOrder; table::MEMBERS]>()) as u64
            + (self.tables as u64 + self.services as u64) * table::SLOTS as u64
            + self.services as u64 * size_of::<Name>() as u64
            + self.dialog_lines as u64 * size_of::<dialog::Line>() as u64
            + self.fragments as u64
                * (FRAGMENT_OVERHEAD
                    + size_of::<fragment::Key>() as u64
                    + size_of::<fragment::Record>() as u64)
            + self.bindings as u64
                * (size_of::<Load>() as u64 + size_of::<BindingStats>() as u64 * cpus)
            // Values of per-CPU arrays take eight bytes at least.
            + self.choices as u64 * 8 * cpus
    }
}

/// Version of everything above: two programs that agree on it can share pinned maps.
pub const LAYOUT: u64 = {
    let sizes = [
        // Raised when the meaning of a field changes but no size does.
        2,
        size_of::<Listener>(),
        size_of::<Interface>(),
        size_of::<Name>(),
        size_of::<Endpoint>(),
        size_of::<Binding>(),
        size_of::<Route>(),
        size_of::<Settings>(),
        size_of::<Clock>(),
        size_of::<Slot>(),
        size_of::<MemberOrder>(),
        size_of::<table::Members>(),
        size_of::<dialog::Line>(),
        size_of::<fragment::Key>(),
        size_of::<fragment::Record>(),
        size_of::<BindingStats>(),
        size_of::<Load>(),
        size_of::<Decision>(),
        size_of::<Record>(),
        size_of::<Desk>(),
        size_of::<watch::Filters>(),
        size_of::<watch::Seen>(),
        size_of::<watch::Desk>(),
        crate::verdict::VERDICTS,
        crate::stats::EVENTS,
        name::ALL.len(),
    ];
    // FNV-1a over the list.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut i = 0;
    while i < sizes.len() {
        hash = (hash ^ sizes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
};
