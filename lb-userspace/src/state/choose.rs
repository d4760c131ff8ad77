//! Which set and which key a request goes by, computed as the datapath does: for `route` and tests.

use std::net::IpAddr;

use lb_common::{
    addr::Addr,
    hash::{self, HashKey},
    sip::{self, Method, Payload, Place, Span, Uri},
    verdict::Key,
};

use super::route::call_id_hash;
use crate::config::model::{Balance, DomainPattern, Service, Set, SetKind};

/// What a new request says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub call_id: &'a str,
    pub method: Method,
    pub uri: Option<&'a str>,
    /// Values of the headers.
    pub from: Option<&'a str>,
    pub to: Option<&'a str>,
    /// The client.
    pub source: Option<IpAddr>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("{0:?} is no Call-ID: a Call-ID is not empty and has no blanks or line breaks in it")]
    CallId(String),
    #[error("the service chooses by {balance}, which needs {option}")]
    Missing { balance: &'static str, option: &'static str },
    #[error("{0}: which backend is next depends on the requests before")]
    History(&'static str),
}

/// A text of a request, taken apart.
struct Parts {
    text: String,
    window: Payload,
    uri: Uri,
}

impl Parts {
    fn of_uri(uri: &str) -> Self {
        Self::of(format!("X {uri} SIP/2.0\r\n"), |window| sip::request_uri(window, 0))
    }

    fn of_header(value: &str) -> Self {
        Self::of(format!("X:{value}\r\n"), |window| sip::address(window, 2))
    }

    fn of(text: String, find: impl Fn(&Payload) -> Option<Place>) -> Self {
        let window = Payload::new(text.as_bytes());
        let uri = find(&window).and_then(|place| sip::uri(&window, place)).unwrap_or_default();
        Self { text, window, uri }
    }

    /// The host in lower case; empty if there is none.
    fn host(&self) -> String {
        let Span { start, end } = self.uri.host;
        self.text.get(start as usize..end as usize).unwrap_or_default().to_ascii_lowercase()
    }

    fn hash(&self, span: Span, key: HashKey, fold: u32) -> Option<u64> {
        if span.exists() { sip::span_hash(&self.window, span, key, fold) } else { None }
    }
}

/// The set of a request outside dialogs: that of the method's rule, of the best domain rule, else
/// the service's own. A whole name goes before what it lies below, the longest of these first.
///
/// # Errors
/// If the service has domain rules and the Request-URI is not known.
pub fn set<'a>(service: &'a Service, request: &Request<'_>) -> Result<Set<'a>, Unknown> {
    let own = Set { kind: SetKind::Own, backends: &service.backends };
    for set in service.sets() {
        if let SetKind::Methods(methods) = set.kind
            && methods.contains(&request.method)
        {
            return Ok(set);
        }
    }
    if service.domains.is_empty() {
        return Ok(own);
    }
    let uri = request.uri.ok_or(Unknown::Missing { balance: "domain", option: "--request-uri" })?;
    let host = Parts::of_uri(uri).host();
    let rank = |pattern: &DomainPattern| {
        matches(pattern, &host).then_some((!pattern.below, pattern.domain.len()))
    };
    let best = |set: &Set<'_>| match set.kind {
        SetKind::Domains(patterns) => patterns.iter().filter_map(rank).max(),
        SetKind::Own | SetKind::Methods(_) => None,
    };
    let found = service.sets().filter_map(|set| Some((best(&set)?, set)));
    Ok(found.max_by_key(|(rank, _)| *rank).map_or(own, |(_, set)| set))
}

fn matches(pattern: &DomainPattern, host: &str) -> bool {
    if pattern.below {
        host.strip_suffix(&pattern.domain).is_some_and(|rest| rest.ends_with('.'))
    } else {
        host == pattern.domain
    }
}

/// The hash whose slot decides, and what it is the hash of. A request without the part that the
/// service's `balance` names goes by its Call-ID.
///
/// # Errors
/// If that part was not given, or it takes more than the request to tell.
pub fn hash(service: &Service, key: HashKey, request: &Request<'_>) -> Result<(u64, Key), Unknown> {
    let call_id = call_id_hash(key, request.call_id.as_bytes())
        .ok_or_else(|| Unknown::CallId(request.call_id.to_owned()))?;
    let balance = service.balance.label();
    let missing = |option| Unknown::Missing { balance, option };
    let uri = || request.uri.map(Parts::of_uri).ok_or(missing("--request-uri"));
    let to = || request.to.map(Parts::of_header).ok_or(missing("--to"));
    let (found, by) = match service.balance {
        Balance::CallId => (None, Key::CallId),
        Balance::SourceIp => {
            let source = request.source.ok_or(missing("--source"))?;
            (Some(hash::source_address(key, &Addr::from(source))), Key::SourceIp)
        }
        Balance::RequestUser => {
            // A REGISTER's Request-URI names the registrar; its To is who registers.
            let parts = if request.method == Method::Register { to()? } else { uri()? };
            (parts.hash(parts.uri.user, key, 0), Key::RequestUser)
        }
        Balance::RequestDomain => {
            let parts = uri()?;
            (parts.hash(parts.uri.host, key, 1), Key::RequestDomain)
        }
        Balance::FromUser => {
            let parts = request.from.map(Parts::of_header).ok_or(missing("--from"))?;
            (parts.hash(parts.uri.user, key, 0), Key::FromUser)
        }
        Balance::ToUser => {
            let parts = to()?;
            (parts.hash(parts.uri.user, key, 0), Key::ToUser)
        }
        Balance::RoundRobin | Balance::LeastDialogs => return Err(Unknown::History(balance)),
    };
    Ok(found.map_or((call_id, Key::CallId), |hash| (hash, by)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const TENANTS: &str = include_str!("../../../tests/fixtures/config/valid/sets.yaml");

    fn request<'a>(method: Method, uri: &'a str) -> Request<'a> {
        Request { call_id: "a", method, uri: Some(uri), from: None, to: None, source: None }
    }

    #[test]
    fn the_method_goes_before_the_domain_and_a_whole_name_before_what_it_is_below() {
        let config = config::parse(TENANTS, Path::new("/")).unwrap().config;
        let name = |method, uri| set(&config.services[0], &request(method, uri)).unwrap().name();
        for (method, uri, expected) in [
            (Method::Invite, "sip:bob@CORPORATE.example:5070", "corporate.example"),
            (Method::Invite, "sip:a.branch.example", "corporate.example"),
            (Method::Invite, "sip:branch.example", ""),
            (Method::Invite, "sip:loadbalancer.", "loadbalancer"),
            (Method::Invite, "tel:+49", ""),
            (Method::Register, "sip:corporate.example", "REGISTER"),
            (Method::Publish, "sip:elsewhere.example", "REGISTER"),
        ] {
            assert_eq!(name(method, uri), expected, "{uri}");
        }
        let without = Request { uri: None, ..request(Method::Invite, "") };
        assert!(set(&config.services[0], &without).is_err());
    }

    #[test]
    fn turns_and_loads_cannot_be_foreseen() {
        let config = config::parse(TENANTS, Path::new("/")).unwrap().config;
        for service in &config.services {
            let asked = hash(service, HashKey::default(), &request(Method::Invite, "sip:a@b"));
            assert_eq!(asked, Err(Unknown::History(service.balance.label())));
        }
    }
}
