//! A laboratory with everything running: servers on the backends, sip-lb on the edge host, taps on
//! the wires of callers and backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    balancer::{Balancer, Settings},
    lab::{Plan, Site},
    peer::Peer,
    process::wait_for,
    sipp::{Calls, Uac, Uas},
    tap::{Heard, Tap},
};

/// What is on its way arrives well within this, even on a busy machine.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// Everything that runs. Fields are dropped in order: processes before the laboratory.
#[derive(Debug)]
pub struct Stage {
    pub balancer: Balancer,
    /// One on each backend, in order.
    pub servers: Vec<Uas>,
    caller_tap: Tap,
    taps: Vec<Tap>,
    pub settings: Settings,
    pub site: Site,
}

impl Stage {
    /// Builds the laboratory and starts a SIPp server on each backend, then sip-lb by settings that
    /// `change` may alter.
    ///
    /// # Errors
    /// Names what did not start.
    pub fn set(plan: Plan, change: impl FnOnce(&Site, &mut Settings)) -> Result<Self> {
        let site = plan.build()?;
        let (mut servers, mut taps) = (Vec::new(), Vec::new());
        for (host, n) in site.backends.iter().zip(0..) {
            servers.push(Uas::start(host, site.lab.directory(), site.backend_address(n))?);
            taps.push(Tap::on(host, "eth0")?);
        }
        let caller_tap = Tap::on(&site.callers[0], "eth0")?;
        let mut settings = Settings::of(&site);
        change(&site, &mut settings);
        let balancer = Balancer::start(&site, &settings)?;
        Ok(Self { balancer, servers, caller_tap, taps, settings, site })
    }

    /// Starts to place calls from the first caller to the service.
    ///
    /// # Errors
    /// If SIPp does not start.
    pub fn call(&self, calls: &Calls) -> Result<Uac> {
        self.call_from(5060, calls)
    }

    /// The same, from another port of the first caller.
    ///
    /// # Errors
    /// If SIPp does not start.
    pub fn call_from(&self, port: u16, calls: &Calls) -> Result<Uac> {
        let local = SocketAddr::new(self.site.caller_address(0).ip(), port);
        let (host, directory) = (&self.site.callers[0], self.site.lab.directory());
        Uac::start(host, directory, local, self.settings.listen, calls)
    }

    /// Plays a scenario `count` times, `rate` a second, with pauses of `hold`, from another port of the
    /// first caller against the service. The n-th call has the injected fields `line(n)`;
    /// [`Self::places_of`] tells where it went.
    ///
    /// # Errors
    /// If SIPp does not start.
    pub fn play<const N: usize>(
        &self,
        scenario: &str,
        port: u16,
        (count, rate, hold): (u64, u32, Duration),
        line: impl Fn(u64) -> [String; N],
    ) -> Result<Peer> {
        let directory = self.site.lab.directory();
        let lines: Vec<_> = (0..count).map(|n| line(n).join(";")).collect();
        let file = directory.join(format!("lines-{port}.csv"));
        fs::write(&file, format!("SEQUENTIAL\n{}\n", lines.join("\n")))?;
        let file = file.to_str().context("a path that is text")?;
        let words = ["-inf", file, "-cid_str", &format!("%u-{port}@lines")];
        let local = SocketAddr::new(self.site.caller_address(0).ip(), port);
        let (host, vip) = (&self.site.callers[0], self.settings.listen);
        Peer::play_with(host, directory, scenario, local, vip, (count, rate, hold), &words)
    }

    /// The backends where messages of each call of [`Self::play`] from `port` have arrived.
    #[must_use]
    pub fn places_of(&self, port: u16) -> BTreeMap<u64, BTreeSet<usize>> {
        let end = format!("-{port}@lines");
        let places = self.settled().places().into_iter();
        let calls = places.filter_map(|(id, at)| {
            // SIPp counts from 1.
            let number: u64 = id.strip_suffix(&end)?.parse().ok()?;
            Some((number - 1, at))
        });
        calls.collect()
    }

    /// Starts a server anew, once the old one is gone.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_server(&mut self, n: usize) -> Result<()> {
        self.servers[n].process().kill()?;
        let address = self.site.backend_address(u8::try_from(n)?);
        let (host, directory) = (&self.site.backends[n], self.site.lab.directory());
        self.servers[n] = Uas::start(host, directory, address)?;
        Ok(())
    }

    /// What the wires have brought so far; probes are left out.
    #[must_use]
    pub fn wires(&self) -> Wires {
        let calls = |tap: &Tap| {
            tap.heard().into_iter().filter(|heard| heard.cseq_method != "OPTIONS").collect()
        };
        Wires { caller: calls(&self.caller_tap), backends: self.taps.iter().map(calls).collect() }
    }

    /// The same, once all that was sent has arrived; with what was lost after a while.
    #[must_use]
    pub fn settled(&self) -> Wires {
        let start = Instant::now();
        loop {
            let wires = self.wires();
            if wires.losses() == Losses::default() || start.elapsed() > ON_ITS_WAY {
                return wires;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until something holds for the wires.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        found: impl Fn(&Wires) -> Option<T>,
    ) -> Result<T> {
        wait_for(what, limit, || Ok(found(&self.wires()))).with_context(|| self.balancer.tail())
    }

    /// Waits until `count` more INVITEs have reached backends.
    ///
    /// # Errors
    /// If they do not within `limit`.
    pub fn await_invites(&self, count: usize, limit: Duration) -> Result<()> {
        let before: Vec<_> = self.taps.iter().map(Tap::count).collect();
        let invites = |heard: &[Heard]| {
            heard.iter().filter(|m| !m.outgoing && m.is_request("INVITE")).count()
        };
        wait_for(&format!("{count} more calls"), limit, || {
            let arrived: usize =
                self.taps.iter().zip(&before).map(|(tap, from)| tap.look(*from, invites)).sum();
            Ok((arrived >= count).then_some(()))
        })
        .with_context(|| self.balancer.tail())
    }

    /// As [`get`].
    ///
    /// # Errors
    /// If it does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(&self.site, path)
    }

    /// As [`metric`].
    ///
    /// # Errors
    /// If sip-lb does not answer.
    pub fn metric(&self, series: &str) -> Result<f64> {
        metric(&self.site, series)
    }
}

/// What sip-lb answers to `GET path` on its metrics address: status and body.
///
/// # Errors
/// If it does not answer.
pub fn get(site: &Site, path: &str) -> Result<(u16, String)> {
    site.edge.enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9560")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
        let status = head.split(' ').nth(1).context("an HTTP status")?.parse()?;
        Ok((status, body.to_owned()))
    })
}

/// A value of /metrics by its name with labels, such as `sip_lb_events_total{event="x"}`; 0 if it is
/// not there.
///
/// # Errors
/// If sip-lb does not answer.
pub fn metric(site: &Site, series: &str) -> Result<f64> {
    let (status, text) = get(site, "/metrics")?;
    ensure!(status == 200, "/metrics answers {status}: {text}");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(Ok(0.0), |value| value.parse().with_context(|| format!("{series} {value}")))
}

/// SIP messages on the wires, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wires {
    pub caller: Vec<Heard>,
    pub backends: Vec<Vec<Heard>>,
}

/// Messages that left one end and did not arrive at the other; below 0, that came more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub to_backends: i64,
    pub to_callers: i64,
}

impl Wires {
    /// What was lost on the way, each message counted at both ends.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let at_caller = |outgoing| count(&self.caller, outgoing);
        let at_backends =
            |outgoing| self.backends.iter().map(|heard| count(heard, outgoing)).sum::<i64>();
        Losses {
            to_backends: at_caller(true) - at_backends(false),
            to_callers: at_backends(true) - at_caller(false),
        }
    }

    /// Of each backend, the first INVITE of every call that arrived there: when.
    #[must_use]
    pub fn arrivals(&self, backend: usize) -> Vec<Instant> {
        let mut seen = BTreeSet::new();
        let invites =
            self.backends[backend].iter().filter(|m| !m.outgoing && m.is_request("INVITE"));
        invites.filter(|m| seen.insert(m.call_id.clone())).map(|m| m.at).collect()
    }

    /// Calls that a backend left between its 180 and its 200: the caller waits in vain.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        let got = |status| -> BTreeSet<&str> {
            let answers = self.caller.iter().filter(|m| !m.outgoing && m.cseq_method == "INVITE");
            answers.filter(|m| m.status() == Some(status)).map(|m| m.call_id.as_str()).collect()
        };
        got(180).difference(&got(200)).count()
    }

    /// The backends that requests of each Call-ID arrived at.
    #[must_use]
    pub fn places(&self) -> BTreeMap<String, BTreeSet<usize>> {
        let mut places = BTreeMap::<_, BTreeSet<_>>::new();
        for (n, heard) in self.backends.iter().enumerate() {
            for message in heard.iter().filter(|message| !message.outgoing) {
                places.entry(message.call_id.clone()).or_default().insert(n);
            }
        }
        places
    }
}

fn count(heard: &[Heard], outgoing: bool) -> i64 {
    heard.iter().filter(|message| message.outgoing == outgoing).map(|_message| 1).sum()
}
