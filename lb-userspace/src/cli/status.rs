//! `sip-lb status`.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{Instance, detach, exit, print};
use crate::{
    admin::socket::{self, Answer, Command},
    datapath,
    status::{BackendStatus, ControllerState, ServiceStatus, Status},
};

/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    instance: Instance,
    /// Where the program is pinned, for when the controller is gone.
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    #[arg(long)]
    json: bool,
    /// Refresh every second.
    #[arg(long)]
    watch: bool,
}

/// Shows the running instance, or what is left of one.
pub(super) fn run(args: &StatusArgs) -> Result<u8> {
    loop {
        let (status, code) = look(args)?;
        let text = match &status {
            Some(status) if args.json => format!("{}\n", serde_json::to_string(status)?),
            Some(status) => text(status),
            None => String::new(),
        };
        if !args.watch {
            print(&text)?;
            return Ok(code);
        }
        print(&format!("\x1b[2J\x1b[H{text}"))?;
        std::thread::sleep(WATCH_EVERY);
    }
}

fn look(args: &StatusArgs) -> Result<(Option<Status>, u8)> {
    let socket = args.instance.socket()?;
    match socket::ask(&socket, &Command::Status)? {
        Some(Answer::Status(status)) => return Ok((Some(*status), exit::DONE)),
        Some(Answer::Done(other) | Answer::Refused(other)) => {
            anyhow::bail!("{} answered: {other}", socket.display())
        }
        Some(Answer::Remaining(_)) => {
            anyhow::bail!("{} answered something else", socket.display())
        }
        None => {}
    }
    let pin_dir = detach::pin_dir(args.pin_dir.as_ref(), args.instance.config.as_ref())?;
    let status = datapath::remains::status(&pin_dir)?;
    match &status {
        Some(_) => eprintln!(
            "sip-lb: not running: nobody answers on {}; shown is what is pinned in {}",
            socket.display(),
            pin_dir.display()
        ),
        None => eprintln!(
            "sip-lb: not running: nobody answers on {}, nothing is pinned in {}",
            socket.display(),
            pin_dir.display()
        ),
    }
    Ok((status, exit::NOT_RUNNING))
}

/// The status for people.
#[must_use]
pub(super) fn text(status: &Status) -> String {
    let mut out = String::new();
    let controller = match status.controller {
        ControllerState::Running => "running",
        ControllerState::Lost => "LOST (no probes; traffic goes on by the last table)",
    };
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ok = writeln!(out, "{text}");
    };
    line(format!("sip-lb {}   controller {controller}", status.version));
    if let (Some(path), Some(at)) = (&status.config.path, &status.config.loaded_at) {
        line(format!("config     {}, loaded {at}", path.display()));
    }
    if let Some(error) = &status.config.reload_error {
        line(format!("           last reload REFUSED: {error}"));
    }
    for link in &status.attached {
        let name = if link.interface.is_empty() { "(vanished)" } else { &link.interface };
        line(format!("interface  {name}, {} XDP", link.mode));
    }
    for service in &status.services {
        line(String::new());
        line(service_line(service));
        line(format!(
            "  {:<18} {:<24} {:>4} {:>6} {:>7} {:>8} {:<8} {:<6} {:>8} {:>10}",
            "backend",
            "address",
            "prio",
            "weight",
            "share",
            "traffic",
            "health",
            "admin",
            "dialogs",
            "requests"
        ));
        backend_lines(&service.backends, service.active_priority, &mut line);
        for set in &service.sets {
            line(format!("  for {}   {}", set.name, tier(set.active_priority, None)));
            backend_lines(&set.backends, set.active_priority, &mut line);
        }
    }
    for retired in &status.retired {
        line(format!(
            "retired    {}/{} {}, {} live dialogs",
            retired.service, retired.backend, retired.address, retired.live_dialogs
        ));
    }
    if status.watchers > 0 {
        line(format!("watched    by {}: `capture` or `trace` is on", status.watchers));
    }
    for notice in &status.notices {
        line(format!("notice     {notice}"));
    }
    out
}

fn backend_lines(backends: &[BackendStatus], active: Option<u16>, line: &mut impl FnMut(String)) {
    for backend in backends {
        let traffic =
            backend.traffic_share.map_or("-".to_owned(), |t| format!("{:.1} %", t * 100.0));
        let active = if Some(backend.priority) == active { "*" } else { " " };
        line(format!(
            "{active} {:<18} {:<24} {:>4} {:>6} {:>5.1} % {:>8} {:<8} {:<6} {:>8} {:>10}",
            backend.name,
            backend.address,
            backend.priority,
            backend.weight,
            backend.share * 100.0,
            traffic,
            backend.health,
            backend.admin,
            backend.live_dialogs,
            backend.requests_total
        ));
        if let (Some(reason), Some(since)) = (&backend.last_reason, &backend.since)
            && backend.health != "up"
        {
            line(format!("      {} since {since}: {reason}", backend.health));
        }
        if let Some(until) = &backend.busy_until {
            line(format!("      busy until {until}"));
        }
    }
}

fn tier(active_priority: Option<u16>, all_down: Option<&str>) -> String {
    match active_priority {
        Some(priority) => format!("tier {priority} in use"),
        None => match all_down {
            Some("reject") => "NO USABLE BACKEND: requests are answered 503".to_owned(),
            Some("keep-last") => "NO USABLE BACKEND: keeping the last table".to_owned(),
            Some("drop") => "NO USABLE BACKEND: requests are dropped".to_owned(),
            Some(_) | None => "NO USABLE BACKEND".to_owned(),
        },
    }
}

fn service_line(service: &ServiceStatus) -> String {
    let tier = tier(service.active_priority, service.all_down.as_deref());
    let suspected =
        if service.suspected { ", all backends silent: keeping the last table" } else { "" };
    format!(
        "service {}   {}   {} {}   {tier}{suspected}   table {}",
        service.name,
        service.listen.join(" "),
        service.forward,
        service.balance,
        service.table_digest
    )
}
