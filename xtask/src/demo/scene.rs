//! The stage: laboratory, SIP peers, and sip-lb on the edge host.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_tests::{
    balancer::{self, Balancer, Settings, check, program, sip_lb},
    command::output,
    kamailio::Kamailio,
    lab::{Host, Plan, Site},
    process::Process,
    sipp::{Calls, Outcome, Uac, Uas},
    tap::Tap,
};
use serde_json::Value;

use super::{
    ledger::Ledger,
    report::Share,
    screen::{Row, View},
};

/// Name, priority, weight; the Kamailio is [`KAMAILIO`].
const BACKENDS: [(&str, u16, u16); 4] =
    [("gw1", 10, 1), ("gw2", 10, 1), ("gw3", 10, 2), ("spare", 20, 1)];
const KAMAILIO: &str = "gw3";
/// Time between ACK and BYE.
const HOLD: Duration = Duration::from_secs(1);
/// A caller gives up after so long without the next message.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time over which the live picture measures.
const RECENT: Duration = Duration::from_secs(5);
/// How often sip-lb is asked.
const STATUS: Duration = Duration::from_millis(500);

/// Everything that runs. Fields are dropped in order: processes before the laboratory.
pub(super) struct Scene {
    uac: Option<Uac>,
    caller_tap: Tap,
    pub(super) backends: Vec<Backend>,
    balancer: Balancer,
    status: (Instant, Value),
    pub(super) worst_detection: Duration,
    rate: u32,
    lasting: bool,
    socket: PathBuf,
    site: Site,
}

/// A backend of the demonstration.
pub(super) struct Backend {
    pub(super) name: &'static str,
    priority: u16,
    weight: u16,
    address: SocketAddr,
    host: Host,
    tap: Tap,
    server: Server,
}

enum Server {
    Sipp(Uas),
    Kamailio(Kamailio),
}

impl Scene {
    /// Builds the laboratory, starts the backends and sip-lb.
    pub(super) fn set(rate: u32, lasting: bool) -> Result<Self> {
        let count = u8::try_from(BACKENDS.len())?;
        let site = Plan { backends: count, ..Plan::default() }.build()?;
        println!("caller, edge host and {count} backends in network namespaces");
        let mut backends = Vec::new();
        for ((name, priority, weight), n) in BACKENDS.into_iter().zip(0..) {
            let host = site.backends[usize::from(n)].clone();
            let address = site.backend_address(n);
            let server = Server::start(&site, name, &host, address, lasting)?;
            println!("{name}: {} on {address}", server.software());
            let tap = Tap::on(&host, "eth0")?;
            backends.push(Backend { name, priority, weight, address, host, tap, server });
        }

        let mut settings = Settings::of(&site);
        settings.backends = backends.iter().map(Backend::settings).collect();
        println!("sip-lb's configuration:\n{}", indented(&settings.yaml()));
        let start = if lasting { Balancer::start_lasting } else { Balancer::start };
        let balancer = start(&site, &settings)?;
        let worst_detection = worst_detection(&check(balancer.config())?)?;
        let status = (Instant::now(), balancer.status()?);
        let caller_tap = Tap::on(&site.callers[0], "eth0")?;
        let scene = Self {
            uac: None,
            caller_tap,
            backends,
            balancer,
            status,
            worst_detection,
            rate,
            lasting,
            socket: settings.socket,
            site,
        };
        println!("sip-lb run: attached to {}", scene.attached()?);
        if !scene.attached()?.contains("native") {
            bail!("sip-lb is not attached in native mode\n{}", scene.tail());
        }
        Ok(scene)
    }

    pub(super) fn place_calls(&mut self) -> Result<()> {
        let calls =
            Calls { rate: self.rate, hold: HOLD, patience: Some(PATIENCE), ..Calls::default() };
        let (host, directory) = (&self.site.callers[0], self.site.lab.directory());
        let (local, remote) = (self.site.caller_address(0), self.site.vip(0));
        let start = if self.lasting { Uac::start_lasting } else { Uac::start };
        self.uac = Some(start(host, directory, local, remote, &calls)?);
        Ok(())
    }

    pub(super) fn no_more_calls(&mut self) -> Result<()> {
        self.caller()?.place_no_more()
    }

    pub(super) fn outcome_if_ended(&mut self) -> Result<Option<Outcome>> {
        let uac = self.caller()?;
        if uac.process().ended()?.is_some() { uac.outcome().map(Some) } else { Ok(None) }
    }

    fn caller(&mut self) -> Result<&mut Uac> {
        self.uac.as_mut().context("no calls were placed")
    }

    /// Makes backends hang; the time of the first.
    pub(super) fn freeze(&mut self, which: &[usize]) -> Result<Instant> {
        let at = Instant::now();
        for n in which {
            self.backends[*n].server.process().freeze()?;
        }
        Ok(at)
    }

    /// Starts backends anew; for each the time at which it was up.
    pub(super) fn restart<const N: usize>(&mut self, which: [usize; N]) -> Result<[Instant; N]> {
        let mut up = [Instant::now(); N];
        for (n, at) in which.into_iter().zip(&mut up) {
            let backend = &mut self.backends[n];
            // Its address is free only when the old one is gone.
            backend.server.kill()?;
            let (host, address) = (&backend.host, backend.address);
            backend.server = Server::start(&self.site, backend.name, host, address, self.lasting)?;
            *at = Instant::now();
        }
        Ok(up)
    }

    /// Takes what the wires brought into the ledger.
    pub(super) fn count(&self, ledger: &mut Ledger) {
        for heard in self.caller_tap.take() {
            ledger.at_caller(heard);
        }
        for (n, backend) in self.backends.iter().enumerate() {
            for heard in backend.tap.take() {
                ledger.at_backend(n, heard);
            }
        }
    }

    /// What there is to see now.
    pub(super) fn view(&mut self, title: &str, start: Instant, ledger: &Ledger) -> Result<View> {
        if let Some(how) = self.balancer.process().ended()? {
            bail!("sip-lb has ended ({how})\n{}", self.tail());
        }
        let now = Instant::now();
        if now.duration_since(self.status.0) > STATUS {
            self.status = (now, self.balancer.status()?);
        }
        let since = now.checked_sub(RECENT).unwrap_or(start);
        let recent: Vec<_> =
            (0..self.backends.len()).map(|n| ledger.arrived_between(n, since, now)).collect();
        let all = recent.iter().sum::<usize>().max(1);
        let mut rows = Vec::new();
        for (n, backend) in self.backends.iter().enumerate() {
            let said = |field| balancer::backend(&self.status.1, backend.name, field);
            let health = said("health")?.as_str().context("`health`")?.to_owned();
            let share = said("share")?.as_f64().context("`share`")?;
            rows.push(Row {
                name: backend.name,
                software: backend.server.software(),
                address: backend.address,
                priority: backend.priority,
                weight: backend.weight,
                health,
                share,
                measured: recent[n] as f64 / all as f64,
            });
        }
        let failed = match &self.uac {
            Some(uac) => uac.outcome()?.failed,
            None => 0,
        };
        Ok(View {
            title: title.to_owned(),
            elapsed: now.duration_since(start),
            rate: self.rate,
            vip: self.site.vip(0),
            rows,
            failed,
            setups: ledger.setups(start, now),
            recent: ledger.setups(since, now),
        })
    }

    /// Parts of the new calls in these two spans of time, against the weights of the first tier.
    pub(super) fn shares(&self, ledger: &Ledger, spans: &[(Instant, Instant); 2]) -> Vec<Share> {
        let tier = self.backends.iter().map(|b| b.priority).min().unwrap_or_default();
        let weights: u16 =
            self.backends.iter().filter(|b| b.priority == tier).map(|b| b.weight).sum();
        let measured = |n: usize, (from, to): (Instant, Instant)| {
            let arrived = |n| ledger.arrived_between(n, from, to);
            let all = (0..self.backends.len()).map(arrived).sum::<usize>().max(1);
            arrived(n) as f64 / all as f64
        };
        let share = |(n, backend): (usize, &Backend)| Share {
            name: backend.name,
            software: backend.server.software(),
            priority: backend.priority,
            weight: backend.weight,
            expected: if backend.priority == tier {
                f64::from(backend.weight) / f64::from(weights)
            } else {
                0.0
            },
            measured: spans.map(|span| measured(n, span)),
            calls: ledger.arrived(n),
        };
        self.backends.iter().enumerate().map(share).collect()
    }

    /// NICs and modes, as sip-lb says.
    pub(super) fn attached(&self) -> Result<String> {
        let list = self.status.1["attached"].as_array().context("`attached` in the status")?;
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let each = list.iter().map(|a| format!("{} {}", text(&a["interface"]), text(&a["mode"])));
        Ok(each.collect::<Vec<_>>().join(", "))
    }

    /// The last words of sip-lb, for errors.
    pub(super) fn tail(&self) -> String {
        self.balancer.tail()
    }

    /// Ends everything in order; sip-lb must end well and take its program off.
    pub(super) fn strike(mut self) -> Result<()> {
        self.uac = None;
        let ended = self.balancer.process().terminate(Duration::from_secs(10))?;
        if !ended.success() {
            bail!("sip-lb ended badly ({ended})\n{}", self.tail());
        }
        output(sip_lb().args(["detach", "--pin-dir"]).arg(self.site.lab.pin_dir()))?;
        println!("\n  The laboratory is gone.");
        Ok(())
    }

    /// Leaves everything as it is.
    pub(super) fn keep(mut self) -> Result<()> {
        self.place_calls()?;
        self.caller()?.process().keep();
        self.balancer.process().keep();
        for backend in &mut self.backends {
            backend.server.keep();
        }
        self.site.lab.keep()?;
        let (edge, socket) = (self.site.edge.namespace(), self.socket.display());
        let program = program().display().to_string();
        println!(
            "\n  The laboratory stays, with calls going on. Look around:\n\n  \
             {program} status --socket {socket}\n  \
             ip netns list                       # caller, edge host, backends\n  \
             nsenter --net=/run/netns/{edge} ip -s link\n  \
             nsenter --net=/run/netns/{edge} curl -s http://127.0.0.1:9560/metrics\n  \
             less {}\n  \
             less {}/sip-lb.log\n\n  \
             Remove it by `cargo xtask demo --clean`.",
            self.balancer.config().display(),
            self.site.lab.directory().display(),
        );
        Ok(())
    }
}

impl Backend {
    fn settings(&self) -> balancer::Backend {
        balancer::Backend {
            name: self.name.to_owned(),
            address: self.address,
            priority: self.priority,
            weight: self.weight,
            more: String::new(),
        }
    }
}

impl Server {
    fn start(
        site: &Site,
        name: &str,
        host: &Host,
        address: SocketAddr,
        lasting: bool,
    ) -> Result<Self> {
        let directory = site.lab.directory();
        if name == KAMAILIO {
            let start = if lasting { Kamailio::start_lasting } else { Kamailio::start };
            start(host, directory, address).map(Self::Kamailio)
        } else {
            let start = if lasting { Uas::start_lasting } else { Uas::start };
            start(host, directory, address).map(Self::Sipp)
        }
    }

    const fn software(&self) -> &'static str {
        match self {
            Self::Sipp(_) => "SIPp",
            Self::Kamailio(_) => "Kamailio",
        }
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Self::Sipp(uas) => uas.process(),
            Self::Kamailio(kamailio) => kamailio.process(),
        }
    }

    fn kill(&mut self) -> Result<()> {
        if let Self::Kamailio(kamailio) = self {
            kamailio.server().process().kill()?;
        }
        self.process().kill()
    }

    fn keep(&mut self) {
        if let Self::Kamailio(kamailio) = self {
            kamailio.server().process().keep();
        }
        self.process().keep();
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// The service's worst detection, from `check --json`.
fn worst_detection(check: &Value) -> Result<Duration> {
    let seconds = check["services"][0]["worst_detection_seconds"].as_f64();
    let seconds = seconds.with_context(|| format!("no `worst_detection_seconds` in {check}"))?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}
