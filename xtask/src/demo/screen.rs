//! The live picture: a table that is redrawn on a terminal, lines now and then elsewhere.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::ledger::Setups;

/// What is shown of a backend.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) software: &'static str,
    pub(super) address: SocketAddr,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) health: String,
    /// Of new dialogs, as sip-lb says.
    pub(super) share: f64,
    /// Of new calls in the last seconds, as its own wire says.
    pub(super) measured: f64,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) title: String,
    pub(super) elapsed: Duration,
    pub(super) rate: u32,
    pub(super) vip: SocketAddr,
    pub(super) rows: Vec<Row>,
    pub(super) failed: u64,
    pub(super) setups: Setups,
    pub(super) recent: Setups,
}

/// Where it is shown.
pub(super) struct Screen {
    terminal: bool,
    notes: VecDeque<String>,
    last_line: Option<Instant>,
}

/// Events that stay in view.
const NOTES: usize = 12;
/// Without a terminal: time between lines.
const PAUSE: Duration = Duration::from_secs(2);

impl Screen {
    pub(super) fn new(terminal: bool) -> Self {
        if terminal {
            // The alternate screen: what was there before comes back.
            print!("\x1b[?1049h\x1b[?25l");
        }
        Self { terminal, notes: VecDeque::new(), last_line: None }
    }

    /// Something happened.
    pub(super) fn note(&mut self, at: Duration, text: &str) {
        let line = format!("{:6.1} s  {text}", at.as_secs_f64());
        if !self.terminal {
            println!("{line}");
        }
        self.notes.push_back(line);
        while self.notes.len() > NOTES {
            self.notes.pop_front();
        }
    }

    pub(super) fn show(&mut self, view: &View) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terminal {
            let mut text = table(view);
            for note in &self.notes {
                let _ = writeln!(text, "  {note}");
            }
            // Home, every line cleared to its end, then everything below.
            let text = text.replace('\n', "\x1b[K\n");
            write!(out, "\x1b[H{text}\x1b[J")?;
            return out.flush();
        }
        if self.last_line.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.last_line = Some(Instant::now());
            writeln!(out, "{}", line(view))?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            println!("\x1b[?25h\x1b[?1049l");
            for note in &self.notes {
                println!("{note}");
            }
        }
    }
}

/// Milliseconds for people, or a dash.
pub(super) fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}

fn table(view: &View) -> String {
    const BAR: f64 = 24.0;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n  sip-lb demo   {:5.1} s   {}\n\n  {} calls/s to {}\n",
        view.elapsed.as_secs_f64(),
        view.title,
        view.rate,
        view.vip
    );
    let _ = writeln!(
        text,
        "  backend          address            prio weight health  share   new calls, last 5 s"
    );
    for row in &view.rows {
        let bar = "█".repeat((row.measured * BAR).round() as usize);
        let _ = writeln!(
            text,
            "  {:<5} {:<10} {:<18} {:>4} {:>6} {:<7} {:>5.1} % {:>5.1} % {bar}",
            row.name,
            row.software,
            row.address.to_string(),
            row.priority,
            row.weight,
            row.health,
            row.share * 100.0,
            row.measured * 100.0,
        );
    }
    let Setups { placed, answered, .. } = view.setups;
    let _ = writeln!(
        text,
        "\n  calls placed {placed}   set up {answered}   failed {}   set-up time p50 {}  p99 {}\n",
        view.failed,
        milliseconds(view.recent.p50),
        milliseconds(view.recent.p99),
    );
    text
}

fn line(view: &View) -> String {
    let mut text = format!("{:6.1} s ", view.elapsed.as_secs_f64());
    for row in &view.rows {
        let _ = write!(text, " {} {} {:.0}%", row.name, row.health, row.measured * 100.0);
    }
    let Setups { placed, answered, .. } = view.setups;
    let _ = write!(text, "  placed {placed} set up {answered} failed {}", view.failed);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let row = Row {
            name: "gw1",
            software: "Kamailio",
            address: "10.0.1.200:5060".parse().unwrap(),
            priority: 10,
            weight: 2,
            health: "up".to_owned(),
            share: 0.25,
            measured: 1.0,
        };
        View {
            title: "all of priority 10 hang: spare took over".to_owned(),
            elapsed: Duration::from_secs(61),
            rate: 100,
            vip: "203.0.113.10:5060".parse().unwrap(),
            rows: vec![row; 4],
            failed: 12_345,
            setups: Setups { placed: 123_456, answered: 123_456, ..Setups::default() },
            recent: Setups {
                p50: Some(Duration::from_millis(3_500)),
                p99: Some(Duration::from_millis(31_500)),
                ..Setups::default()
            },
        }
    }

    #[test]
    fn no_line_is_wider_than_a_hundred_columns() {
        let text = table(&view()) + &line(&view());
        for line in text.lines() {
            assert!(line.chars().count() < 100, "{line}");
        }
        assert!(text.contains("gw1   Kamailio"), "{text}");
    }
}
