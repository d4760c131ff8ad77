//! Every metric: its name, what it says, its labels.

/// Declares one metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $help:literal, [$($label:literal),*];)+) => {
        $(pub const $id: Metric = Metric { name: $name, help: $help, labels: &[$($label),*] };)+

        /// All of them.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

metrics! {
    REQUESTS = "sip_lb_requests_total", "SIP requests sent to a backend.", ["service", "backend"];
    FORWARDED_PACKETS = "sip_lb_backend_packets_total", "Packets sent to a backend, requests, responses and keepalives.", ["service", "backend"];
    FORWARDED_BYTES = "sip_lb_backend_bytes_total", "Bytes of IP sent to a backend.", ["service", "backend"];
    REPLIED_PACKETS = "sip_lb_backend_reply_packets_total", "Packets from a backend sent on to clients.", ["service", "backend"];
    REPLIED_BYTES = "sip_lb_backend_reply_bytes_total", "Bytes of IP from a backend sent on to clients.", ["service", "backend"];
    SERVER_REQUESTS = "sip_lb_server_requests_total", "SIP requests that a backend sent to clients.", ["service", "backend"];
    RESPONSES = "sip_lb_responses_total", "SIP responses of a backend by class.", ["service", "backend", "code"];
    FORWARDED = "sip_lb_forwarded_packets_total", "Packets sent on, by reason.", ["direction", "reason"];
    PASSED = "sip_lb_passed_packets_total", "Packets left to the host's own stack, by reason.", ["reason"];
    DROPPED = "sip_lb_dropped_packets_total", "Packets dropped, by reason.", ["reason"];
    SLOW_PATH = "sip_lb_slow_path_packets_total", "Packets handed to the controller, by reason.", ["reason"];
    SLOW_PATH_TAKEN = "sip_lb_slow_path_taken_total", "Packets that the controller took, by kind and by what became of them.", ["kind", "outcome"];
    SLOW_PATH_LOST = "sip_lb_slow_path_lost_total", "Packets lost between the XDP program and the controller, or on the way out.", ["place"];
    ANSWERED = "sip_lb_answered_packets_total", "Packets answered by the XDP program itself, by reason.", ["reason"];
    EVENTS = "sip_lb_events_total", "Occurrences beside a packet's verdict.", ["event"];
    BACKEND_UP = "sip_lb_backend_up", "1 if the backend is up, 0 if it is down or not known yet.", ["service", "backend", "priority"];
    BACKEND_SHARE = "sip_lb_backend_share_ratio", "Share of new dialogs that the backend gets now.", ["service", "backend", "priority"];
    BACKEND_ADMIN = "sip_lb_backend_admin", "1 for what is in force by configuration and command: ready, drain or maint.", ["service", "backend", "state"];
    SET_SHARE = "sip_lb_set_share_ratio", "Share that the backend gets now of the new dialogs that a method or domain rule matches.", ["service", "set", "backend", "priority"];
    SET_ACTIVE_PRIORITY = "sip_lb_set_active_priority", "Priority of the tier in use of a rule's set; absent if none is usable.", ["service", "set"];
    SET_USABLE = "sip_lb_set_usable", "1 if a tier of the rule's set has a usable backend.", ["service", "set"];
    ACTIVE_PRIORITY = "sip_lb_service_active_priority", "Priority of the tier in use; absent if none is usable.", ["service"];
    SERVICE_USABLE = "sip_lb_service_usable", "1 if a tier of the service has a usable backend.", ["service"];
    TABLE_DIGEST = "sip_lb_service_table_digest", "Low 32 bits of the slot table's digest; equal on nodes that place new dialogs alike.", ["service"];
    LIVE_DIALOGS = "sip_lb_live_dialogs", "Answered INVITEs without a BYE, by the last sweep; approximate.", ["service", "backend"];
    RINGING_DIALOGS = "sip_lb_ringing_dialogs", "INVITEs without a final answer, by the last sweep; approximate.", ["service", "backend"];
    DIALOG_ENTRIES = "sip_lb_dialog_entries", "Entries of the dialog table by state, by the last sweep.", ["state"];
    DIALOG_CAPACITY = "sip_lb_dialog_capacity", "Entries that the dialog table has room for.", [];
    DIALOG_SWEPT = "sip_lb_dialog_swept_total", "Entries that sweeps have cleared: lifetime over, doubled, or without meaning.", ["reason"];
    DIALOG_EVICTIONS = "sip_lb_dialog_evictions_total", "Live entries replaced by newer ones.", ["state"];
    RELOADS = "sip_lb_config_reloads_total", "Reloads of the configuration by result.", ["result"];
    LAST_RELOAD = "sip_lb_config_last_reload_success_timestamp_seconds", "When the running configuration was taken.", [];
    RUNS = "sip_lb_program_runs_total", "Packets that the XDP program has seen (with --bpf-stats).", [];
    SECONDS = "sip_lb_program_seconds_total", "Time spent in the XDP program (with --bpf-stats).", [];
    ATTACHED = "sip_lb_interface_attached", "1 if the program is attached to the interface.", ["interface", "mode"];
    BUILD_INFO = "sip_lb_build_info", "Always 1; the version of the controller.", ["version"];
    PROBE_SECONDS = "sip_lb_probe_duration_seconds", "Time from a probe to its answer.", ["endpoint"];
    PROBE_FAILURES = "sip_lb_probe_failures_total", "Failed probes by reason.", ["endpoint", "reason"];
}
