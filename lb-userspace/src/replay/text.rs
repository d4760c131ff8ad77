//! A replay as a person reads it: a row for each packet, and a summary.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use lb_common::verdict::{Kind, Verdict};

use super::line::{Line, Unfit};

/// Counts of what was replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    packets: u64,
    /// By verdict and reason.
    reasons: BTreeMap<(&'static str, &'static str), u64>,
    /// By service and backend.
    backends: BTreeMap<(String, String), Traffic>,
}

/// Packets of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    new_dialogs: u64,
    forwarded: u64,
    replied: u64,
}

/// The heads of the columns; `width` is that of `service/backend`.
#[must_use]
pub fn head(width: usize) -> String {
    let width = width.max("service/backend".len());
    format!(
        "{:>7}  {:<9} {:<15} {:<10} {:<width$}  {:<21} {:<9} {:<8} call-id",
        "packet", "verdict", "reason", "message", "service/backend", "address", "key", "out"
    )
}

/// The row of a packet.
#[must_use]
pub fn row(line: &Line<'_>, width: usize) -> String {
    let width = width.max("service/backend".len());
    let message = match (&line.method, line.status) {
        (Some(method), _) => printable(method),
        (None, Some(status)) => status.to_string(),
        (None, None) => "-".to_owned(),
    };
    let place = match (line.service, line.backend) {
        (Some(service), Some(backend)) => format!("{service}/{backend}"),
        (Some(service), None) => service.to_owned(),
        (None, _) => "-".to_owned(),
    };
    let address = line.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let call_id = line.call_id.as_deref().map_or_else(|| "-".to_owned(), printable);
    format!(
        "{:>7}  {:<9} {:<15} {message:<10} {place:<width$}  {address:<21} {:<9} {:<8} {call_id}",
        line.packet,
        line.verdict,
        line.reason,
        line.key.unwrap_or("-"),
        line.out,
    )
}

/// The text with control characters written out: what a capture holds must not steer a terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

impl Summary {
    /// Takes in a line.
    pub fn add(&mut self, line: &Line<'_>) {
        self.packets += 1;
        *self.reasons.entry((line.verdict, line.reason)).or_default() += 1;
        let (Some(service), Some(backend), Some(_)) = (line.service, line.backend, line.address)
        else {
            return;
        };
        let traffic = self.backends.entry((service.to_owned(), backend.to_owned())).or_default();
        if line.verdict == Kind::Forward.label() {
            traffic.forwarded += 1;
            traffic.new_dialogs += u64::from(line.reason == Verdict::NewDialog.reason());
        } else if line.verdict == Kind::Reply.label() {
            traffic.replied += 1;
        }
    }

    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// All of it, in several lines.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let noun = if self.packets == 1 { "packet" } else { "packets" };
        writeln!(out, "{} {noun}", self.packets)?;
        if !self.reasons.is_empty() {
            writeln!(out, "\n{:>9}  {:<9} {:<15} meaning", "packets", "verdict", "reason")?;
        }
        for ((verdict, reason), count) in &self.reasons {
            writeln!(out, "{count:>9}  {verdict:<9} {reason:<15} {}", meaning(reason))?;
        }
        if self.backends.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:>11} {:>7}  {:>9} {:>8}  service/backend",
            "new dialogs", "share", "forwarded", "replied"
        )?;
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for ((service, _), traffic) in &self.backends {
            *totals.entry(service).or_default() += traffic.new_dialogs;
        }
        for ((service, backend), traffic) in &self.backends {
            let total = totals.get(service.as_str()).copied().unwrap_or(0);
            let share = match total {
                0 => "-".to_owned(),
                total => format!("{:.1} %", traffic.new_dialogs as f64 * 100.0 / total as f64),
            };
            writeln!(
                out,
                "{:>11} {share:>7}  {:>9} {:>8}  {service}/{backend}",
                traffic.new_dialogs, traffic.forwarded, traffic.replied
            )?;
        }
        Ok(())
    }
}

/// What a reason means, without its final period.
fn meaning(reason: &str) -> &'static str {
    let unfit = [Unfit::TooShort, Unfit::Truncated, Unfit::TooBig];
    let of_verdict = Verdict::ALL.iter().find(|v| v.reason() == reason).map(|v| v.help());
    let of_unfit = || unfit.iter().find(|u| u.reason() == reason).map(|u| u.help());
    of_verdict.or_else(of_unfit).unwrap_or_default().trim().trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(packet: u64, backend: &'static str) -> Line<'static> {
        Line {
            verdict: "forward",
            reason: "new-dialog",
            service: Some("trunk"),
            method: Some("INVITE".into()),
            call_id: Some("a\u{1b}[2Jb".into()),
            key: Some("call-id"),
            backend: Some(backend),
            address: Some("10.0.1.200:5060".parse().unwrap()),
            out: "tx",
            ..Line::unfit(packet, Unfit::TooShort)
        }
    }

    #[test]
    fn rows_stand_below_their_heads_and_cannot_steer_a_terminal() {
        let head = head(0);
        let row = row(&forwarded(7, "gw1"), 0);
        for (name, value) in
            [("verdict", "forward"), ("reason", "new-dialog"), ("message", "INVITE"), ("out", "tx")]
        {
            assert_eq!(head.find(name), row.find(value), "{name}");
        }
        assert_eq!(head.find("call-id"), row.find("a\\u{1b}[2Jb"));
        assert!(!row.contains('\u{1b}'));
    }

    #[test]
    fn the_summary_counts_reasons_and_backends() {
        let mut summary = Summary::default();
        for (packet, backend) in [(1, "gw1"), (2, "gw2"), (3, "gw1"), (4, "gw1")] {
            summary.add(&forwarded(packet, backend));
        }
        summary.add(&Line { verdict: "reply", reason: "response", ..forwarded(5, "gw2") });
        summary.add(&Line::unfit(6, Unfit::TooBig));
        let expected = "\
6 packets

  packets  verdict   reason          meaning
        4  forward   new-dialog      A new dialog, placed by the hash of its Call-ID and remembered
        1  pass      too-big         not run: longer than the kernel takes in a test run
        1  reply     response        A response from a backend

new dialogs   share  forwarded  replied  service/backend
          3  75.0 %          3        0  trunk/gw1
          1  25.0 %          1        1  trunk/gw2
";
        assert_eq!(summary.text(), expected);
    }
}
