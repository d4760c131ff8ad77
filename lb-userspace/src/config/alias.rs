//! The names by which a backend may call itself in its Via headers.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, de::Error as _};

/// The port that a Via means if it names none (RFC 3261 §18.2.2).
const DEFAULT_PORT: u16 = lb_common::sip::DEFAULT_PORT;
/// Longest name of a host in bytes (RFC 1035 §2.3.4).
const LONGEST: usize = 253;

/// A host as a Via header names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(String),
}

/// An entry of `aliases`: another host, with another port or the backend's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alias {
    pub host: Host,
    pub port: Option<u16>,
}

/// A host and a port that mean a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sender {
    pub host: Host,
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl<'de> Deserialize<'de> for Alias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// `gw2.example.net`, `203.0.113.77`, `[2001:db8::7]`, each with or without a port.
pub(super) fn parse(text: &str) -> Result<Alias, String> {
    const FORM: &str = "allowed is a host name or an IP address, with or without a port, such as \
                        gw2.example.net, 203.0.113.77:5080 or [2001:db8::7]";
    let refuse = || FORM.to_owned();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Alias { host: Host::Address(address), port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        // A colon inside brackets parts groups.
        Some((_, behind)) if behind.ends_with(']') => (text, None),
        Some((host, port)) => {
            let digits = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse::<u16>().ok().filter(|&port| digits && port > 0);
            (host, Some(port.ok_or_else(|| format!("{FORM}; ports are 1 to 65535"))?))
        }
        None => (text, None),
    };
    if let Some(inside) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let Ok(address) = inside.parse() else { return Err(refuse()) };
        return Ok(Alias { host: Host::Address(IpAddr::V6(address)), port });
    }
    if let Ok(v4) = host.parse() {
        return Ok(Alias { host: Host::Address(IpAddr::V4(v4)), port });
    }
    let is_name = (1..=LONGEST).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && host.bytes().any(|b| b.is_ascii_alphabetic());
    if !is_name {
        return Err(refuse());
    }
    Ok(Alias { host: Host::Name(host.to_ascii_lowercase()), port })
}

/// Who a backend surely is: its address, and each alias with its port or the backend's own.
pub fn sure<'a>(
    address: SocketAddr,
    aliases: impl IntoIterator<Item = &'a Alias> + 'a,
) -> impl Iterator<Item = Sender> + 'a {
    let own = Sender { host: Host::Address(address.ip()), port: address.port() };
    let others = aliases.into_iter().map(move |alias| Sender {
        host: alias.host.clone(),
        port: alias.port.unwrap_or(address.port()),
    });
    std::iter::once(own).chain(others)
}

/// Who a backend is too if no other backend of its service is: its hosts without a port, which
/// means 5060 though the backend has another one.
pub fn likely<'a>(
    address: SocketAddr,
    aliases: impl IntoIterator<Item = &'a Alias> + 'a,
) -> impl Iterator<Item = Sender> + 'a {
    let portless = aliases.into_iter().filter(|alias| alias.port.is_none());
    std::iter::once(Host::Address(address.ip()))
        .chain(portless.map(|alias| alias.host.clone()))
        .filter(move |_| address.port() != DEFAULT_PORT)
        .map(|host| Sender { host, port: DEFAULT_PORT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_hosts_with_or_without_a_port() {
        for (text, host, port) in [
            ("gw2.example.net", "gw2.example.net", None),
            ("GW2.Example.NET:5080", "gw2.example.net", Some(5080)),
            ("sip_1", "sip_1", None),
            ("203.0.113.77", "203.0.113.77", None),
            ("203.0.113.77:5080", "203.0.113.77", Some(5080)),
            ("2001:db8::7", "[2001:db8::7]", None),
            ("[2001:DB8::7]", "[2001:db8::7]", None),
            ("[2001:db8::7]:5080", "[2001:db8::7]", Some(5080)),
        ] {
            let alias = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((alias.host.to_string().as_str(), alias.port), (host, port), "{text}");
        }
        for text in [
            "",
            ":5060",
            "gw:",
            "gw:0",
            "gw:65536",
            "gw:+5",
            "gw:05060",
            "gw:sip",
            "10.0.1",
            "10.0.1.300",
            "a b",
            "gw/1",
            "[gw]",
            "[2001:db8::7",
            "a:b:c",
            "[2001:db8::7]5080",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"a".repeat(253)).is_ok() && parse(&"a".repeat(254)).is_err());
    }

    #[test]
    fn a_host_without_a_port_means_5060_and_the_backends_own() {
        let aliases = [parse("gw").unwrap(), parse("pub:5070").unwrap()];
        let names = |senders: Vec<Sender>| {
            senders.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let at = |address: &str| {
            let address = address.parse().unwrap();
            (names(sure(address, &aliases).collect()), names(likely(address, &aliases).collect()))
        };
        let of = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(at("10.0.0.1:5060"), of("10.0.0.1:5060 gw:5060 pub:5070", ""));
        assert_eq!(
            at("10.0.0.1:5080"),
            of("10.0.0.1:5080 gw:5080 pub:5070", "10.0.0.1:5060 gw:5060")
        );
    }
}
