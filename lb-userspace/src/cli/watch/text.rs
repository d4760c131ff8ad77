//! A packet that was seen as a row of text, or as JSON.

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::watch::{Sight, sight::From};

/// The heads of the columns.
pub(super) fn head() -> String {
    format!(
        "{:<15}  {:<2} {:<21} {:<10} {:<9} {:<15} {:<13} {:<20} {:<21} {:<15} call-id",
        "time (UTC)",
        "",
        "client",
        "message",
        "verdict",
        "reason",
        "key",
        "service/backend",
        "address",
        "out"
    )
}

/// The row of a packet.
pub(super) fn row(sight: &Sight) -> String {
    let or_dash = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let message = match (&sight.method, sight.status) {
        (Some(method), _) => printable(method),
        (None, Some(status)) => status.to_string(),
        (None, None) => "-".to_owned(),
    };
    let place = match (&sight.service, &sight.backend) {
        (Some(service), Some(backend)) => format!("{service}/{backend}"),
        (Some(service), None) => service.clone(),
        (None, _) => "-".to_owned(),
    };
    // Which way, as seen from the client.
    let arrow = match sight.from {
        From::Client => "->",
        From::Backend | From::SipLb => "<-",
    };
    let out = match &sight.egress {
        Some(interface) => format!("{} {interface}", sight.out),
        None => sight.out.clone(),
    };
    format!(
        "{:<15}  {arrow:<2} {:<21} {message:<10} {:<9} {:<15} {:<13} {place:<20} {:<21} {out:<15} {}",
        clock(sight.time),
        or_dash(&sight.client),
        sight.verdict,
        sight.reason,
        or_dash(&sight.key),
        or_dash(&sight.address),
        or_dash(&sight.call_id),
    )
}

/// What a person may see of text that came from a network: nothing steers the terminal.
fn printable(text: impl AsRef<str>) -> String {
    text.as_ref().escape_debug().to_string()
}

/// The time of the day, in UTC.
fn clock(nanoseconds: u64) -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
    date(nanoseconds).and_then(|date| date.format(format).ok()).unwrap_or_else(|| "-".to_owned())
}

fn date(nanoseconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into()).ok()
}

/// One line of `trace --json`, in the order of its fields.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    /// RFC 3339, UTC.
    time: String,
    from: From,
    client: Option<&'a str>,
    verdict: &'a str,
    reason: &'a str,
    service: Option<&'a str>,
    method: Option<&'a str>,
    status: Option<u16>,
    call_id: Option<&'a str>,
    key: Option<&'a str>,
    backend: Option<&'a str>,
    address: Option<&'a str>,
    out: &'a str,
    ingress: Option<&'a str>,
    egress: Option<&'a str>,
}

/// The same as an object.
pub(super) fn json(sight: &Sight) -> Json<'_> {
    Json {
        time: date(sight.time).and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default(),
        from: sight.from,
        client: sight.client.as_deref(),
        verdict: &sight.verdict,
        reason: &sight.reason,
        service: sight.service.as_deref(),
        method: sight.method.as_deref(),
        status: sight.status,
        call_id: sight.call_id.as_deref(),
        key: sight.key.as_deref(),
        backend: sight.backend.as_deref(),
        address: sight.address.as_deref(),
        out: &sight.out,
        ingress: sight.ingress.as_deref(),
        egress: sight.egress.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sight::tests::sight;

    #[test]
    fn rows_stand_below_their_heads_and_cannot_steer_a_terminal() {
        let hostile = Sight { call_id: Some("a\u{1b}[2Jb".to_owned()), ..sight() };
        let (head, row) = (head(), row(&hostile));
        for (name, value) in [
            ("client", "198.51.100.10:5060"),
            ("message", "INVITE"),
            ("verdict", "forward"),
            ("reason", "new-dialog"),
            ("key", "call-id "),
            ("service/backend", "trunk/gw1"),
            ("address", "10.0.1.201:5060"),
            ("out", "redirect eth1"),
            ("call-id", "a\\u{1b}[2Jb"),
        ] {
            assert_eq!(head.rfind(name), row.rfind(value), "{name}");
        }
        assert!(row.starts_with("22:13:20.123456  -> "), "{row}");
        assert!(!row.contains('\u{1b}'));
        let answer = Sight { from: From::Backend, method: None, status: Some(200), ..sight() };
        assert!(super::row(&answer).contains("<- 198.51.100.10:5060    200 "));
    }

    #[test]
    fn an_object_has_no_packets_and_its_fields_in_order() {
        let text = serde_json::to_string(&json(&sight())).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2023-11-14T22:13:20.123456789Z","from":"client","client":"198.51.100.10:5060","verdict":"forward","reason":"new-dialog","service":"trunk","method":"INVITE","status":null,"call_id":"a84b4c76e66710@pc33","key":"call-id","backend":"gw1","address":"10.0.1.201:5060","out":"redirect","ingress":"eth0","egress":"eth1"}"#
        );
    }
}
