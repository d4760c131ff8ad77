//! The configuration as the rest of the program sees it: it cannot be invalid.
//!
//! Built only by [`super::load`]; every invariant that `README.md` names (unique names, one family
//! per service, weights in range, timeouts below intervals) already holds for a value of these types.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::sip::Method;
use serde::{Deserialize, Serialize};

use super::alias::Alias;

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// NICs that the XDP program is attached to; at least one.
    pub interfaces: Vec<String>,
    pub xdp_mode: XdpMode,
    /// Secret from which the Call-ID hash key is derived; `None` = make a random one and pin it.
    pub hash_key: Option<String>,
    pub metrics_listen: SocketAddr,
    pub admin_socket: PathBuf,
    pub pin_dir: PathBuf,
    pub dialogs: Dialogs,
    pub limits: Limits,
    pub controller_lost: ControllerLost,
    /// In file order; names are unique.
    pub services: Vec<Service>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// Native where the driver has it, else generic with a warning.
    Auto,
    Native,
    Generic,
}

/// `dialogs:`: how many calls are remembered, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialogs {
    /// Dialogs that fit without eviction; the table has twice as many entries, rounded up to a
    /// power of two.
    pub max: u32,
    /// 256 s … 4 h.
    pub timeout: Duration,
}

/// `limits:`: capacities fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub services: u32,
    pub endpoints: u32,
    pub bindings: u32,
    pub tables: u32,
    pub fragments: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerLost {
    /// Traffic flows by the last table for as long as it takes.
    Keep,
    /// The XDP program passes everything once the controller has been gone for this long.
    DetachAfter(Duration),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    /// Virtual addresses, at least one, all of one family.
    pub listen: Vec<SocketAddr>,
    pub transport: Transport,
    pub forward: Forward,
    pub balance: Balance,
    pub affinity: Affinity,
    pub in_dialog_failover: InDialogFailover,
    pub keepalive: Keepalive,
    pub malformed: Malformed,
    pub all_down: AllDown,
    /// Retry-After of the 503 that `all_down: reject` sends; at least a second.
    pub retry_after: Duration,
    pub spoof_check: SpoofCheck,
    /// The service's own set; at least one, one family, unique names, unique addresses. A name
    /// stands for one address and one health in all sets of the service.
    pub backends: Vec<Backend>,
    /// Other sets for some domains; a domain stands in one rule.
    pub domains: Vec<DomainRule>,
    /// Other sets for some methods, before the domains; a method stands in one rule.
    pub methods: Vec<MethodRule>,
    pub panic: PanicMode,
}

/// A set for requests whose Request-URI has one of these domains.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainRule {
    /// At least one.
    pub matches: Vec<DomainPattern>,
    pub backends: Vec<Backend>,
}

/// A domain, or everything below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainPattern {
    /// In lower case, without a final dot.
    pub domain: String,
    /// `*.domain`: not the domain itself but everything below it.
    pub below: bool,
}

/// A set for requests outside dialogs that have one of these methods.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodRule {
    /// At least one.
    pub matches: Vec<Method>,
    pub backends: Vec<Backend>,
}

/// One of the sets of a service.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    pub kind: SetKind<'a>,
    pub backends: &'a [Backend],
}

/// What a set is for.
#[derive(Clone, Copy, Debug)]
pub enum SetKind<'a> {
    Own,
    Domains(&'a [DomainPattern]),
    Methods(&'a [Method]),
}

/// What works so far; other values of the contract are rejected with "not supported yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    CallId,
    SourceIp,
    RequestUser,
    RequestDomain,
    FromUser,
    ToUser,
    RoundRobin,
    LeastDialogs,
}

impl Balance {
    pub const ALL: &'static [Self] = &[
        Self::CallId,
        Self::SourceIp,
        Self::RequestUser,
        Self::RequestDomain,
        Self::FromUser,
        Self::ToUser,
        Self::RoundRobin,
        Self::LeastDialogs,
    ];

    /// The word in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::CallId => "call-id",
            Self::SourceIp => "source-ip",
            Self::RequestUser => "request-user",
            Self::RequestDomain => "request-domain",
            Self::FromUser => "from-user",
            Self::ToUser => "to-user",
            Self::RoundRobin => "round-robin",
            Self::LeastDialogs => "least-dialogs",
        }
    }
}

/// What stays with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// Every dialog.
    Dialog,
    /// Nothing: each message is placed for itself.
    None,
}

/// What happens to empty, CRLF, NUL and very short datagrams from clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keepalive {
    /// They end here, counted.
    Absorb,
    /// To a backend, by source address and port.
    Forward,
}

/// What happens to datagrams from clients that are no SIP, no keepalive and no STUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// To a backend, by source address and port.
    Forward,
    Drop,
}

/// What happens to requests while no backend of a service is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllDown {
    /// The controller answers 503.
    Reject,
    /// They go where the last table sent them.
    KeepLast,
    Drop,
}

impl AllDown {
    /// The word in the configuration and in `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::KeepLast => "keep-last",
            Self::Drop => "drop",
        }
    }
}

/// How strictly a packet must prove that it comes from the backend whose address it bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpoofCheck {
    /// Interface, VLAN and, on-link with a known neighbour, source MAC.
    Strict,
    /// Interface and VLAN.
    Interface,
    Off,
}

/// What a confirmed dialog does when its backend is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InDialogFailover {
    /// Its next request moves it to another backend.
    Rehash,
    /// It stays where it is: its messages wait for the backend's return.
    Keep,
}

/// What is wanted of a backend of a service (HAProxy's words), the stricter the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    Ready,
    /// No new dialogs; live ones stay.
    Drain,
    /// No traffic.
    Maint,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    /// What else its Via headers may call it.
    pub aliases: Vec<Alias>,
    /// Lower is preferred (RFC 2782).
    pub priority: u16,
    pub weight: u16,
    /// What the file says; a drain by command is kept apart.
    pub admin: Admin,
    /// `None` = `health: off`, always up.
    pub health: Option<HealthCheck>,
}

/// `health:` after the defaults were applied.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// SIP method of the probe; `OPTIONS` unless configured otherwise.
    pub method: String,
    pub interval: Duration,
    /// Distance of probes once one went unanswered; ≤ `interval`.
    pub fast_interval: Duration,
    /// ≤ `interval`.
    pub timeout: Duration,
    /// Consecutive good answers that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    pub expect: Expect,
    pub initial: Initial,
}

impl HealthCheck {
    /// Longest time from a backend's death to its detection:
    /// interval + (fall − 1) × fast_interval + timeout.
    #[must_use]
    pub fn worst_detection(&self) -> Duration {
        self.interval + self.fast_interval * (self.fall - 1) + self.timeout
    }
}

/// Which answers to a probe mean that the backend is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any well-formed SIP answer, except 503 (= drain until Retry-After).
    Any,
    /// Only these; inclusive ranges of status codes (`200` = 200..=200, `2xx` = 200..=299).
    Codes(Vec<(u16, u16)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initial {
    Up,
    Down,
}

/// What happens when all backends of a service fail within one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PanicMode {
    /// Suspect the own path first: keep the last table for 30 s.
    Keep,
    Obey,
}

/// Health settings by endpoint address; every service that names an endpoint agrees on them.
pub type HealthByEndpoint = BTreeMap<SocketAddr, Option<HealthCheck>>;

impl Config {
    /// A backend by the names of its service and itself.
    #[must_use]
    pub fn backend(&self, service: &str, backend: &str) -> Option<&Backend> {
        let service = self.services.iter().find(|s| s.name == service)?;
        service.all_backends().find(|b| b.name == backend)
    }

    /// Every endpoint once, with its health settings.
    #[must_use]
    pub fn endpoints(&self) -> HealthByEndpoint {
        self.services
            .iter()
            .flat_map(Service::all_backends)
            .map(|b| (b.address, b.health.clone()))
            .collect()
    }
}

impl Service {
    /// The service's own set, then those of its rules in file order.
    pub fn sets(&self) -> impl Iterator<Item = Set<'_>> {
        let own = Set { kind: SetKind::Own, backends: &self.backends };
        let domains = self
            .domains
            .iter()
            .map(|rule| Set { kind: SetKind::Domains(&rule.matches), backends: &rule.backends });
        let methods = self
            .methods
            .iter()
            .map(|rule| Set { kind: SetKind::Methods(&rule.matches), backends: &rule.backends });
        std::iter::once(own).chain(domains).chain(methods)
    }

    /// Every backend once, in file order, as the first set that names it has it.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        let mut seen = HashSet::new();
        self.sets().flat_map(|set| set.backends).filter(move |b| seen.insert(b.name.as_str()))
    }

    /// The address family of the service.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.listen.first().is_some_and(|l| matches!(l.ip(), IpAddr::V4(_)))
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.domain)
    }
}

impl Set<'_> {
    /// The set's name: empty for the service's own, else what its rule matches first.
    #[must_use]
    pub fn name(&self) -> String {
        match self.kind {
            SetKind::Own => String::new(),
            SetKind::Domains(matches) => {
                matches.first().map(ToString::to_string).unwrap_or_default()
            }
            SetKind::Methods(matches) => {
                matches.first().and_then(|method| method.name()).unwrap_or_default().to_owned()
            }
        }
    }
}
