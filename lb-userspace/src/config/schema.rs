//! Every key of the configuration: its shape, range, default and meaning.
//!
//! The one table behind the check of a file, the defaults and the JSON Schema. Keys and words of
//! later versions stand here too, so that they are refused as such and not as spelling mistakes.

use std::time::Duration;

use lb_common::table;

use super::{
    alias,
    shape::{Field, Need, Shape, Text, Word},
    values::{self, Use},
};

use Need::{Default, Elsewhere, Later, Optional, Required};

/// Most backends of one set.
pub(super) const MOST_BACKENDS: usize = table::MAX_MEMBERS;
/// Most rules of each kind; a service has at most 255 sets.
const MOST_RULES: usize = 127;
/// Most aliases of one backend.
const MOST_ALIASES: usize = 64;
/// Listeners that the maps have room for, for each of `limits.services`.
pub(super) const LISTENERS_PER_SERVICE: u32 = 4;

const IP_PORT: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$";
const ABSOLUTE: &str = "^/";

static NAME: Shape = Shape::Text(&Text { check: values::name, pattern: "^[A-Za-z0-9._:-]{1,63}$" });
static TRAFFIC_ADDRESS: Shape = Shape::Text(&Text {
    check: |text| values::address(text, Use::Traffic).map(drop),
    pattern: IP_PORT,
});
static OWN_ADDRESS: Shape = Shape::Text(&Text {
    check: |text| values::address(text, Use::Own).map(drop),
    pattern: IP_PORT,
});
static ALIAS: Shape = Shape::Text(&Text {
    check: |text| alias::parse(text).map(drop),
    pattern: r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?$|^[0-9A-Fa-f:.]+$",
});
static INTERFACE: Shape =
    Shape::Text(&Text { check: values::interface, pattern: r"^[!-.0-9;-~]{1,15}$" });
static HASH_KEY: Shape = Shape::Text(&Text { check: values::hash_key, pattern: r"\S" });
static PATH: Shape = Shape::Text(&Text { check: values::path, pattern: "." });
static ABSOLUTE_PATH: Shape =
    Shape::Text(&Text { check: values::absolute_path, pattern: ABSOLUTE });
static SOCKET_PATH: Shape = Shape::Text(&Text { check: values::socket_path, pattern: ABSOLUTE });
static METHOD: Shape = Shape::Text(&Text {
    check: values::method,
    pattern: "^(OPTIONS|INFO|MESSAGE|NOTIFY|REGISTER)$",
});
static CONTROLLER_LOST: Shape = Shape::Text(&Text {
    check: |text| values::controller_lost(text).map(drop),
    pattern: r"^(keep|detach-after +([0-9]+(d|h|m|s|ms))+)$",
});

const fn int(min: u64, max: u64) -> Shape {
    Shape::Int { min, max }
}

const fn millis(min: u64, max: u64) -> Shape {
    Shape::Span { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const fn now(text: &'static str) -> Word {
    Word { text, works: true }
}

const fn later(text: &'static str) -> Word {
    Word { text, works: false }
}

const fn field(key: &'static str, need: Need, shape: &'static Shape, about: &'static str) -> Field {
    Field { key, need, shape, about }
}

/// The shape of keys that are refused before their value is looked at.
static ANY: Shape = Shape::Map(&[]);

const fn refused(key: &'static str, need: Need) -> Field {
    Field { key, need, shape: &ANY, about: "" }
}

/// The whole file.
pub(super) static ROOT: Shape = Shape::Map(&[
    field(
        "interfaces",
        Required,
        &INTERFACES,
        "network interfaces that the XDP program is attached to",
    ),
    field(
        "xdp_mode",
        Default("auto"),
        &XDP_MODE,
        "auto uses native mode where the driver has it, else generic",
    ),
    field(
        "hash_key",
        Optional,
        &HASH_KEY,
        "secret of the Call-ID hash; nodes with the same key choose the same backend",
    ),
    field(
        "hash_key_file",
        Optional,
        &PATH,
        "file with the hash key, relative to the configuration's directory",
    ),
    field("metrics", Default("{}"), &METRICS, "the HTTP server for Prometheus"),
    field("admin", Default("{}"), &ADMIN, "the socket of the commands, from status to trace"),
    field(
        "pin_dir",
        Default("/sys/fs/bpf/sip-lb"),
        &ABSOLUTE_PATH,
        "directory on a bpf file system for programs and maps",
    ),
    field("dialogs", Default("{}"), &DIALOGS, "how many calls are remembered, and for how long"),
    field("limits", Default("{}"), &LIMITS, "capacities, fixed until the next restart"),
    field(
        "controller_lost",
        Default("keep"),
        &CONTROLLER_LOST,
        "what traffic does without a controller: keep, or detach-after a duration",
    ),
    field(
        "defaults",
        Default("{}"),
        &DEFAULTS,
        "settings of every backend that does not override them",
    ),
    field("services", Required, &SERVICES, "what is balanced"),
]);

static INTERFACES: Shape = Shape::List { of: &INTERFACE, most: 64, or_one: false };
static XDP_MODE: Shape = Shape::Choice(&[now("auto"), now("native"), now("generic")]);

static METRICS: Shape = Shape::Map(&[field(
    "listen",
    Default("127.0.0.1:9560"),
    &OWN_ADDRESS,
    "address of /metrics, /healthz and /readyz",
)]);
static ADMIN: Shape = Shape::Map(&[field(
    "socket",
    Default("/run/sip-lb/admin.sock"),
    &SOCKET_PATH,
    "path of the Unix socket",
)]);

static DIALOGS: Shape = Shape::Map(&[
    field("max", Default("1048576"), &int(1024, 1 << 26), "dialogs that fit"),
    field(
        "timeout",
        Default("3h"),
        &millis(256_000, 4 * 3_600_000),
        "a dialog without any message for this long is forgotten",
    ),
]);

static LIMITS: Shape = Shape::Map(&[
    field("services", Default("256"), &int(1, 4096), "services"),
    field("endpoints", Default("4096"), &int(1, 65_535), "different backend addresses"),
    field(
        "bindings",
        Default("16384"),
        &int(1, 65_535),
        "VIPs times backends, summed over the services",
    ),
    field("tables", Default("256"), &int(1, 4096), "different sets of backends"),
    field(
        "fragments",
        Default("8192"),
        &int(1, 1 << 20),
        "datagrams in fragments that are remembered at a time, 30 s each",
    ),
]);

static DEFAULTS: Shape =
    Shape::Map(&[field("health", Default("{}"), &HEALTH, "how backends are probed")]);

const HEALTH_METHOD: &str = "SIP method of the probe";
const INTERVAL: &str = "time between two probes of a healthy backend";
const FAST_INTERVAL: &str = "time between two probes once one went unanswered; at most interval";
const TIMEOUT: &str = "how long a probe waits for its answer; at most interval";
const RISE: &str = "good answers in a row that bring a backend up";
const FALL: &str = "failures in a row that take a backend down";
const EXPECT: &str = "which answers are good: any, status codes, classes such as 2xx";
const INITIAL: &str = "health before the first answer";

static PROBE_TIME: Shape = millis(10, 3_600_000);
static COUNT: Shape = int(1, 255);
static INITIAL_WORDS: Shape = Shape::Choice(&[now("up"), now("down")]);

static HEALTH: Shape = Shape::Map(&[
    field("method", Default("OPTIONS"), &METHOD, HEALTH_METHOD),
    field("interval", Default("2s"), &PROBE_TIME, INTERVAL),
    field("fast_interval", Default("500ms"), &PROBE_TIME, FAST_INTERVAL),
    field("timeout", Default("1s"), &PROBE_TIME, TIMEOUT),
    field("rise", Default("2"), &COUNT, RISE),
    field("fall", Default("3"), &COUNT, FALL),
    field("expect", Default("any"), &Shape::Answers, EXPECT),
    field("initial", Default("up"), &INITIAL_WORDS, INITIAL),
    field(
        "panic",
        Default("keep"),
        &Shape::Choice(&[now("keep"), now("obey")]),
        "what follows when all backends of a service fail within one interval: keep suspects the own path first",
    ),
]);

/// A backend's own health settings: what is absent comes from the defaults.
static BACKEND_HEALTH: Shape = Shape::OrOff(&Shape::Map(&[
    field("method", Optional, &METHOD, HEALTH_METHOD),
    field("interval", Optional, &PROBE_TIME, INTERVAL),
    field("fast_interval", Optional, &PROBE_TIME, FAST_INTERVAL),
    field("timeout", Optional, &PROBE_TIME, TIMEOUT),
    field("rise", Optional, &COUNT, RISE),
    field("fall", Optional, &COUNT, FALL),
    field("expect", Optional, &Shape::Answers, EXPECT),
    field("initial", Optional, &INITIAL_WORDS, INITIAL),
    refused("panic", Elsewhere("it belongs to whole services: set it in defaults.health")),
]));

static SERVICES: Shape = Shape::List { of: &SERVICE, most: 4096, or_one: false };

static SERVICE: Shape = Shape::Map(&[
    field("name", Required, &NAME, "name of the service in commands and metrics"),
    field(
        "listen",
        Required,
        &Shape::List { of: &TRAFFIC_ADDRESS, most: 1024, or_one: true },
        "virtual addresses (VIPs), one or a list",
    ),
    field(
        "transport",
        Default("udp"),
        &Shape::List {
            of: &Shape::Choice(&[now("udp"), later("tcp"), later("tls")]),
            most: 3,
            or_one: true,
        },
        "transport protocols",
    ),
    field(
        "forward",
        Default("nat"),
        &Shape::Choice(&[now("nat"), later("full-nat"), later("dsr"), later("ipip")]),
        "how packets reach the backend",
    ),
    field(
        "balance",
        Default("call-id"),
        &Shape::Choice(&[
            now("call-id"),
            now("source-ip"),
            now("request-user"),
            now("request-domain"),
            now("from-user"),
            now("to-user"),
            now("round-robin"),
            now("least-dialogs"),
        ]),
        "what chooses the backend of a new dialog",
    ),
    field(
        "affinity",
        Default("dialog"),
        &Shape::Choice(&[now("dialog"), now("none")]),
        "what stays with its backend: each dialog, or none, so that every message is placed for itself",
    ),
    field(
        "in_dialog_failover",
        Default("rehash"),
        &Shape::Choice(&[now("rehash"), now("keep")]),
        "what a confirmed dialog does when its backend is down: rehash moves it, keep lets it wait",
    ),
    field(
        "keepalive",
        Default("absorb"),
        &Shape::Choice(&[now("absorb"), now("forward")]),
        "what happens to empty, CRLF, NUL and very short datagrams; STUN is always answered",
    ),
    field(
        "malformed",
        Default("forward"),
        &Shape::Choice(&[now("forward"), now("drop")]),
        "what happens to datagrams that are no SIP, no keepalive and no STUN",
    ),
    field(
        "all_down",
        Default("reject"),
        &Shape::Choice(&[now("reject"), now("keep-last"), now("drop")]),
        "what happens to requests while no backend is usable: reject answers 503, keep-last goes on by the last table, drop says nothing",
    ),
    field(
        "retry_after",
        Default("120s"),
        &millis(1_000, 86_400_000),
        "Retry-After of the 503, in whole seconds",
    ),
    field(
        "spoof_check",
        Default("strict"),
        &Shape::Choice(&[now("strict"), now("interface"), now("off")]),
        "how a packet proves that a backend sent it",
    ),
    field(
        "backends",
        Required,
        &Shape::List { of: &BACKEND, most: MOST_BACKENDS, or_one: false },
        "who answers",
    ),
    field(
        "domains",
        Optional,
        &Shape::List { of: &DOMAIN_RULE, most: MOST_RULES, or_one: false },
        "other backends for requests whose Request-URI has one of these domains",
    ),
    field(
        "methods",
        Optional,
        &Shape::List { of: &METHOD_RULE, most: MOST_RULES, or_one: false },
        "other backends for new dialogs and single requests of some methods, before domains",
    ),
    refused("guard", Later),
    refused("source_addresses", Later),
    refused("rport", Later),
    refused("tunnel_source", Later),
    refused("panic", Elsewhere("set it in defaults.health")),
    refused("health", Elsewhere("set it in defaults.health or at a backend")),
]);

static DOMAIN_RULE: Shape = Shape::Map(&[
    field(
        "match",
        Required,
        &Shape::List { of: &DOMAIN, most: 1024, or_one: true },
        "domains; *.branch.example is everything below branch.example, but not itself",
    ),
    field("backends", Required, &RULE_BACKENDS, "who answers these requests"),
]);

static METHOD_RULE: Shape = Shape::Map(&[
    field(
        "match",
        Required,
        &Shape::List { of: &RULE_METHOD, most: 9, or_one: true },
        "methods of requests outside dialogs",
    ),
    field("backends", Required, &RULE_BACKENDS, "who answers these requests"),
]);

static RULE_BACKENDS: Shape = Shape::List { of: &BACKEND, most: MOST_BACKENDS, or_one: false };
static DOMAIN: Shape = Shape::Text(&Text {
    check: |text| values::domain(text).map(drop),
    pattern: r"^(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?$",
});
static RULE_METHOD: Shape = Shape::Choice(&[
    now("REGISTER"),
    now("INVITE"),
    now("SUBSCRIBE"),
    now("OPTIONS"),
    now("MESSAGE"),
    now("PUBLISH"),
    now("NOTIFY"),
    now("REFER"),
    now("INFO"),
]);

static BACKEND: Shape = Shape::Map(&[
    field(
        "name",
        Required,
        &NAME,
        "name of the backend in commands and metrics; decides its part of the hash",
    ),
    field("address", Required, &TRAFFIC_ADDRESS, "IP address and port"),
    field(
        "aliases",
        Optional,
        &Shape::List { of: &ALIAS, most: MOST_ALIASES, or_one: true },
        "what else the backend's Via headers call it: names or addresses, with or without a port",
    ),
    field(
        "priority",
        Default("10"),
        &int(0, 65_535),
        "tier: the lowest that has a usable backend carries all new traffic (RFC 2782)",
    ),
    field(
        "weight",
        Default("100"),
        &int(0, 65_535),
        "share inside the tier, relative to the others; 0 is a standby",
    ),
    field(
        "admin",
        Default("ready"),
        &Shape::Choice(&[now("ready"), now("drain"), now("maint")]),
        "drain: no new dialogs, live ones stay; maint: no traffic",
    ),
    field("health", Optional, &BACKEND_HEALTH, "off, or what differs from defaults.health"),
    refused("srv", Later),
]);
