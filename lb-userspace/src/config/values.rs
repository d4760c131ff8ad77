//! The small languages inside scalars: durations, addresses, names, answers to a probe.
//!
//! Each reader returns what is allowed as its error; what was found is shown by the caller.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    service::Name,
    sip::{MAX_KEY, MAX_LABELS, Method},
};

use super::{
    error::quote,
    model::{ControllerLost, DomainPattern},
};
use crate::probe::is_supported_method;

/// Longest name of a service or backend in bytes: what the datapath's records hold.
const NAME_BYTES: usize = Name::MAX;

/// Units of a duration with their milliseconds, largest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `2s`, `500ms`, `1h30m`: numbers with units, each unit at most once, the largest first.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// A duration as the file would write it; below a millisecond is cut.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (name, factor) in UNITS {
        if rest >= factor {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}{name}", rest / factor);
            rest %= factor;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

/// Where an address is used: what is allowed follows from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A VIP or a backend.
    Traffic,
    /// A socket that this program listens on.
    Own,
}

/// `203.0.113.10:5060` or `[2001:db8::10]:5060`.
pub(super) fn address(text: &str, usage: Use) -> Result<SocketAddr, String> {
    const FORM: &str = "allowed is IP:PORT such as 203.0.113.10:5060 or [2001:db8::10]:5060";
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("{FORM}; the port is missing: {text}:5060"),
            Ok(IpAddr::V6(_)) => {
                format!("{FORM}; brackets and the port are missing: [{text}]:5060")
            }
            Err(_) if text.contains('%') => {
                format!("{FORM}; addresses that need an interface (%) are not supported")
            }
            Err(_) if text.contains(char::is_alphabetic) && !text.starts_with('[') => {
                format!("{FORM}; names are not resolved")
            }
            Err(_) => FORM.to_owned(),
        });
    };
    if address.port() == 0 {
        return Err("allowed are ports from 1 to 65535".to_owned());
    }
    match address {
        SocketAddr::V4(v4) if usage == Use::Traffic && v4.ip().is_broadcast() => {
            return Err("allowed are unicast addresses; this one is broadcast".to_owned());
        }
        SocketAddr::V6(v6) if v6.scope_id() != 0 || text.contains('%') => {
            return Err(format!("{FORM}; addresses that need an interface (%) are not supported"));
        }
        SocketAddr::V6(v6) if usage == Use::Traffic && v6.ip().is_unicast_link_local() => {
            let why = "link-local addresses mean nothing without an interface";
            return Err(format!("allowed are global, unique-local and loopback addresses; {why}"));
        }
        SocketAddr::V6(v6) => {
            if let Some(v4) = v6.ip().to_ipv4_mapped() {
                let port = v6.port();
                return Err(format!("allowed is the IPv4 form of the same address, {v4}:{port}"));
            }
        }
        SocketAddr::V4(_) => {}
    }
    if address.ip().is_multicast() {
        return Err("allowed are unicast addresses; this one is multicast".to_owned());
    }
    if usage == Use::Traffic && address.ip().is_unspecified() {
        return Err("allowed are addresses of one host; this one means every address".to_owned());
    }
    Ok(address)
}

/// A service's or backend's name, as commands, metrics and the datapath's records use it.
pub(super) fn name(text: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(ok) {
        return Ok(());
    }
    Err(format!("allowed are 1 to {NAME_BYTES} of the characters A-Z a-z 0-9 . _ : -"))
}

/// A domain of a rule: a host name, or `*.` and a host name.
pub(super) fn domain(text: &str) -> Result<DomainPattern, String> {
    const ALLOWED: &str = "allowed is a domain such as corporate.example, or *.branch.example for \
                           everything below a domain";
    let (below, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    // RFC 3261 §25.1 lets a host name end with a dot.
    let name = name.strip_suffix('.').unwrap_or(name);
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(ok);
    let labels = name.split('.').count();
    if name.len() > MAX_DOMAIN || labels > MAX_LABELS as usize || !name.split('.').all(is_label) {
        return Err(ALLOWED.to_owned());
    }
    if below && name.parse::<IpAddr>().is_ok() {
        return Err(format!("{ALLOWED}; nothing is below an address"));
    }
    Ok(DomainPattern { domain: name.to_ascii_lowercase(), below })
}

/// Longest domain in bytes: what the datapath reads of a host.
const MAX_DOMAIN: usize = MAX_KEY as usize;

/// A method of a rule: one that can stand outside dialogs.
pub(super) fn rule_method(text: &str) -> Option<Method> {
    let method = Method::ALL.iter().copied().find(|method| method.name() == Some(text))?;
    match method {
        Method::Invite
        | Method::Register
        | Method::Options
        | Method::Subscribe
        | Method::Notify
        | Method::Publish
        | Method::Info
        | Method::Refer
        | Method::Message => Some(method),
        Method::Other
        | Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Update
        | Method::Prack => None,
    }
}

/// A network interface, by the kernel's rules (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
    if (1..=15).contains(&text.len()) && text.bytes().all(ok) && !matches!(text, "." | "..") {
        return Ok(());
    }
    Err("allowed is the name of a network interface: 1 to 15 characters, no space, / or :".into())
}

/// A path that does not depend on the directory the program was started in.
pub(super) fn absolute_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') && text.len() <= 4095 {
        return Ok(());
    }
    Err("allowed is an absolute path such as /sys/fs/bpf/sip-lb".to_owned())
}

/// A Unix socket's path: `sockaddr_un` has room for 107 bytes.
pub(super) fn socket_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') && text.len() <= 107 {
        return Ok(());
    }
    Err("allowed is an absolute path of at most 107 bytes".to_owned())
}

/// A path, relative to the configuration's directory or absolute.
pub(super) fn path(text: &str) -> Result<(), String> {
    if (1..=4095).contains(&text.len()) { Ok(()) } else { Err("allowed is a path".to_owned()) }
}

/// The secret behind the Call-ID hash.
pub(super) fn hash_key(text: &str) -> Result<(), String> {
    if !text.trim().is_empty() && text.len() <= 1024 {
        return Ok(());
    }
    Err("allowed are 1 to 1024 bytes, the same on every node".to_owned())
}

/// The method of a probe.
pub(super) fn method(text: &str) -> Result<(), String> {
    if is_supported_method(text) {
        return Ok(());
    }
    Err("allowed are OPTIONS, INFO, MESSAGE, NOTIFY and REGISTER".to_owned())
}

/// `keep` or `detach-after 10m`.
pub(super) fn controller_lost(text: &str) -> Result<ControllerLost, String> {
    const SHORTEST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(7 * 86_400);
    if text == "keep" {
        return Ok(ControllerLost::Keep);
    }
    let after = text.strip_prefix("detach-after").filter(|rest| rest.starts_with(' '));
    match after.and_then(|rest| duration(rest.trim())) {
        Some(after) if (SHORTEST..=LONGEST).contains(&after) => {
            Ok(ControllerLost::DetachAfter(after))
        }
        Some(_) | None => {
            let (shortest, longest) = (show_duration(SHORTEST), show_duration(LONGEST));
            Err(format!(
                "allowed is keep, or detach-after with {shortest} to {longest}, such as \"detach-after 10m\""
            ))
        }
    }
}

/// A class of status codes: `2xx` = 200..=299.
pub(super) fn status_class(text: &str) -> Option<(u16, u16)> {
    let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"))?;
    let class: u16 = class.parse().ok().filter(|c| (1..=6).contains(c) && class.len() == 1)?;
    Some((class * 100, class * 100 + 99))
}

/// Text from the file, as an error names it.
pub(super) fn show_text(text: &str) -> String {
    format!("the text {}", quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_largest_first() {
        let valid = [
            ("500ms", 500),
            ("2s", 2000),
            ("10m", 600_000),
            ("3h", 10_800_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("1s500ms", 1500),
            ("0s", 0),
            ("007s", 7000),
        ];
        for (text, millis) in valid {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        let invalid = [
            "",
            "2",
            "s",
            "2 s",
            "2S",
            "2sec",
            "-2s",
            "1.5s",
            "1s1s",
            "1s1h",
            "2us",
            "2s ",
            "2é",
            "99999999999999999999s",
            "213503982335d",
        ];
        for text in invalid {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in ["500ms", "2s", "1s500ms", "1h30m", "7d", "256ms", "0s"] {
            assert_eq!(duration(text).map(show_duration).as_deref(), Some(text));
        }
        assert_eq!(show_duration(Duration::from_secs(256)), "4m16s");
    }

    #[test]
    fn the_controller_is_missed_for_five_seconds_to_a_week() {
        assert_eq!(controller_lost("keep"), Ok(ControllerLost::Keep));
        for (text, seconds) in
            [("detach-after 5s", 5), ("detach-after  10m", 600), ("detach-after 7d", 604_800)]
        {
            let expected = ControllerLost::DetachAfter(Duration::from_secs(seconds));
            assert_eq!(controller_lost(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "detach",
            "detach-after",
            "detach-after10m",
            "detach-after 4s",
            "detach-after 8d",
            "keep 1s",
        ] {
            assert!(controller_lost(text).is_err(), "{text}");
        }
    }

    #[test]
    fn classes_of_status_codes_are_whole_hundreds() {
        assert_eq!(status_class("2xx"), Some((200, 299)));
        assert_eq!(status_class("6XX"), Some((600, 699)));
        for text in ["0xx", "7xx", "xx", "22xx", "+2xx", "2x", "2xX", "200"] {
            assert_eq!(status_class(text), None, "{text}");
        }
    }
}
