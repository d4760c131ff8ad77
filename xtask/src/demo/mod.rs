//! `cargo xtask demo`: real SIP calls through sip-lb on this machine, and what it does when
//! backends die.
//!
//! A caller, an edge host and four backends live in network namespaces. This file is the story;
//! `scene.rs` sets the stage, `ledger.rs` counts what the network brought to whom, `screen.rs`
//! shows it.

mod ledger;
mod report;
mod scene;
mod screen;

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    ledger::Ledger,
    report::{Event, Report},
    scene::Scene,
    screen::Screen,
};
use crate::{build, deps, exec, test};

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Remove what earlier runs with --keep left, and do nothing else
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// New calls a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..=1000))]
    rate: u32,
}

/// How long calls are watched before anything happens; then the shares must show.
const STEADY: Duration = Duration::from_secs(20);
/// How long a state is watched after a change has worked.
const CALM: Duration = Duration::from_secs(5);
/// A change that has not worked by then has failed.
const LONGEST: Duration = Duration::from_secs(15);
/// A backend that got no new call for so long gets none: at the lowest rate and smallest weight
/// ten would have been due.
const SILENCE: Duration = Duration::from_secs(2);
const FRAME: Duration = Duration::from_millis(250);

/// Prepares the machine, plays the story, judges.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.clean {
        let count = lb_tests::lab::remove_kept()?;
        println!("laboratories removed: {count}");
        return Ok(());
    }
    deps::ensure_build()?;
    deps::ensure_peers()?;
    exec::headline("what the demonstration takes");
    test::ensure_host()?;
    build::run(&build::Args { release: false })?;
    exec::headline("laboratory");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let scene = Scene::set(args.rate, args.keep)?;
    let mut show = Show::new(scene, stop);
    let report = show.play()?;
    drop(show.screen);
    println!("{}", report.text());
    if args.keep {
        show.scene.keep()?;
    } else {
        show.scene.strike()?;
    }
    report.verdict()
}

/// A running demonstration.
struct Show {
    scene: Scene,
    ledger: Ledger,
    screen: Screen,
    start: Instant,
    events: Vec<Event>,
    stop: Arc<AtomicBool>,
}

impl Show {
    fn new(scene: Scene, stop: Arc<AtomicBool>) -> Self {
        let ledger = Ledger::new(scene.backends.len());
        let screen = Screen::new(std::io::stdout().is_terminal());
        Self { scene, ledger, screen, start: Instant::now(), events: Vec::new(), stop }
    }

    /// The story.
    fn play(&mut self) -> Result<Report> {
        let before = Instant::now();
        self.scene.place_calls()?;
        self.watch("calls are spread by weight", STEADY)?;
        let steady = (before, Instant::now());

        let [gw1, gw2, gw3, spare] = [0, 1, 2, 3];
        let frozen = self.scene.freeze(&[gw2])?;
        self.note("gw2 hangs: its sockets are open, nothing is answered");
        let silent = self.await_silence("gw2 hangs", gw2, frozen)?;
        self.event("gw2 hangs: its share moved to gw1 and gw3", silent, true);
        self.watch("gw2 is down", CALM)?;

        let frozen = self.scene.freeze(&[gw1, gw3])?;
        self.note("gw1 and gw3 hang too: nothing of priority 10 is left");
        let taken = self.await_call("priority 10 hangs", spare, frozen)?;
        self.event("all of priority 10 hang: spare took over", taken, true);
        self.watch("spare carries all calls", CALM)?;

        let restarted = self.scene.restart([gw1, gw2, gw3])?;
        self.note("gw1, gw2 and gw3 are started anew");
        for (backend, up) in [gw1, gw2, gw3].into_iter().zip(restarted) {
            let back = self.await_call("priority 10 returns", backend, up)?;
            let name = self.scene.backends[backend].name;
            self.event(&format!("{name} restarted: new calls again"), back, false);
        }
        let idle = self.await_silence("priority 10 returns", spare, restarted[0])?;
        self.event("priority 10 is back: spare got its last new call", idle, false);
        let returned = Instant::now();
        self.watch("calls are spread by weight again", STEADY / 2)?;
        let recovered = (returned, Instant::now());

        let outcome = self.finish_calls()?;
        Ok(Report {
            backends: self.scene.shares(&self.ledger, &[steady, recovered]),
            total: self.ledger.setups(self.start, Instant::now()),
            steady: self.ledger.setups(steady.0, steady.1),
            events: std::mem::take(&mut self.events),
            outcome,
            worst_detection: self.scene.worst_detection,
            attached: self.scene.attached()?,
        })
    }

    /// Shows what happens for so long.
    fn watch(&mut self, title: &str, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.frame(title)?;
        }
        Ok(())
    }

    /// Waits until a backend gets no new calls; the time from `since` to the last one.
    fn await_silence(&mut self, title: &str, backend: usize, since: Instant) -> Result<Duration> {
        loop {
            self.frame(title)?;
            let last = self.ledger.last_arrival(backend).filter(|at| *at > since).unwrap_or(since);
            if last.elapsed() > SILENCE {
                return Ok(last.duration_since(since));
            }
            if since.elapsed() > LONGEST {
                let name = self.scene.backends[backend].name;
                bail!("{name} still gets new calls {LONGEST:?} later\n{}", self.scene.tail());
            }
        }
    }

    /// Waits until a backend gets a new call; the time from `since` to it.
    fn await_call(&mut self, title: &str, backend: usize, since: Instant) -> Result<Duration> {
        loop {
            self.frame(title)?;
            if let Some(at) = self.ledger.first_arrival_after(backend, since) {
                return Ok(at.duration_since(since));
            }
            if since.elapsed() > LONGEST {
                let name = self.scene.backends[backend].name;
                bail!("{name} gets no call within {LONGEST:?}\n{}", self.scene.tail());
            }
        }
    }

    /// Lets the calls under way end.
    fn finish_calls(&mut self) -> Result<lb_tests::sipp::Outcome> {
        self.scene.no_more_calls()?;
        let start = Instant::now();
        loop {
            self.frame("the last calls end")?;
            if let Some(outcome) = self.scene.outcome_if_ended()? {
                return Ok(outcome);
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("calls do not end\n{}", self.scene.tail());
            }
        }
    }

    /// One look: count, show, wait a moment.
    fn frame(&mut self, title: &str) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted; the laboratory is gone");
        }
        self.scene.count(&mut self.ledger);
        let view = self.scene.view(title, self.start, &self.ledger).context("sip-lb status")?;
        self.screen.show(&view)?;
        thread::sleep(FRAME);
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.screen.note(self.start.elapsed(), text);
    }

    fn event(&mut self, what: &str, took: Duration, failover: bool) {
        self.note(&format!("{what} after {:.2} s", took.as_secs_f64()));
        self.events.push(Event { what: what.to_owned(), took, failover });
    }
}
