//! What the datapath counts, read at the scrape.

use anyhow::Result;
use lb_common::{stats::Event, verdict::Kind};
use prometheus::{
    CounterVec, GaugeVec, IntCounterVec, Opts, core::Collector as _, proto::MetricFamily,
};

use super::names::{self, Metric};
use crate::{event::Snapshot, state::Admin, status::BackendStatus};

/// Families collected one after the other.
struct Page(Vec<MetricFamily>);

impl Page {
    /// A counter with one value for each list of label values.
    fn counter(&mut self, metric: Metric, rows: Vec<(Vec<String>, u64)>) -> Result<()> {
        let family = IntCounterVec::new(Opts::new(metric.name, metric.help), metric.labels)?;
        for (labels, value) in rows {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            family.with_label_values(&labels).inc_by(value);
        }
        self.0.extend(family.collect());
        Ok(())
    }

    fn seconds(&mut self, metric: Metric, value: f64) -> Result<()> {
        let family = CounterVec::new(Opts::new(metric.name, metric.help), metric.labels)?;
        family.with_label_values::<&str>(&[]).inc_by(value);
        self.0.extend(family.collect());
        Ok(())
    }

    fn gauge(&mut self, metric: Metric, rows: Vec<(Vec<String>, f64)>) -> Result<()> {
        let family = GaugeVec::new(Opts::new(metric.name, metric.help), metric.labels)?;
        for (labels, value) in rows {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            family.with_label_values(&labels).set(value);
        }
        self.0.extend(family.collect());
        Ok(())
    }
}

/// Everything but what the controller's own registry holds.
pub(super) fn gather(snapshot: &Snapshot) -> Result<Vec<MetricFamily>> {
    let mut page = Page(Vec::new());
    traffic(&mut page, snapshot)?;
    verdicts(&mut page, snapshot)?;
    services(&mut page, snapshot)?;
    dialogs(&mut page, snapshot)?;
    controller(&mut page, snapshot)?;
    // A family without a value would be a bare help line.
    page.0.retain(|family| !family.get_metric().is_empty());
    Ok(page.0)
}

fn traffic(page: &mut Page, snapshot: &Snapshot) -> Result<()> {
    type Value = fn(&lb_common::stats::BindingStats) -> u64;
    let metrics: [(Metric, Value); 6] = [
        (names::REQUESTS, |stats| stats.requests),
        (names::FORWARDED_PACKETS, |stats| stats.forwarded),
        (names::FORWARDED_BYTES, |stats| stats.forwarded_bytes),
        (names::REPLIED_PACKETS, |stats| stats.replied),
        (names::REPLIED_BYTES, |stats| stats.replied_bytes),
        (names::SERVER_REQUESTS, |stats| stats.server_requests),
    ];
    let labels = |t: &crate::event::Traffic| vec![t.service.clone(), t.backend.clone()];
    for (metric, value) in metrics {
        let rows = snapshot.traffic.iter().map(|t| (labels(t), value(&t.stats))).collect();
        page.counter(metric, rows)?;
    }
    let mut rows = Vec::new();
    for traffic in &snapshot.traffic {
        for (class, count) in (1..).zip(traffic.stats.responses) {
            let mut labels = labels(traffic);
            labels.push(format!("{class}xx"));
            rows.push((labels, count));
        }
    }
    page.counter(names::RESPONSES, rows)
}

fn verdicts(page: &mut Page, snapshot: &Snapshot) -> Result<()> {
    let (mut forwarded, mut passed, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut handed, mut answered) = (Vec::new(), Vec::new());
    for (verdict, count) in snapshot.verdicts.iter() {
        let reason = verdict.reason().to_owned();
        match verdict.kind() {
            Kind::Forward => forwarded.push((vec!["to-backend".to_owned(), reason], count)),
            Kind::Reply => forwarded.push((vec!["to-client".to_owned(), reason], count)),
            Kind::Pass => passed.push((vec![reason], count)),
            Kind::Drop => dropped.push((vec![reason], count)),
            Kind::SlowPath => handed.push((vec![reason], count)),
            Kind::Answer => answered.push((vec![reason], count)),
        }
    }
    page.counter(names::FORWARDED, forwarded)?;
    page.counter(names::PASSED, passed)?;
    page.counter(names::DROPPED, dropped)?;
    page.counter(names::SLOW_PATH, handed)?;
    page.counter(names::ANSWERED, answered)?;
    let taken = snapshot.slow_path.iter().map(|((kind, fate), count)| {
        (vec![kind.label().to_owned(), fate.label().to_owned()], *count)
    });
    page.counter(names::SLOW_PATH_TAKEN, taken.collect())?;
    let lost = snapshot.slow_path_lost.map(|(place, count)| (vec![place.to_owned()], count));
    page.counter(names::SLOW_PATH_LOST, lost.to_vec())?;
    let events = snapshot.events.iter();
    page.counter(names::EVENTS, events.map(|(e, n)| (vec![e.label().to_owned()], n)).collect())
}

fn services(page: &mut Page, snapshot: &Snapshot) -> Result<()> {
    let (mut up, mut share, mut admin) = (Vec::new(), Vec::new(), Vec::new());
    let (mut live, mut ringing) = (Vec::new(), Vec::new());
    let (mut active, mut usable, mut digest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut set_share, mut set_active, mut set_usable) = (Vec::new(), Vec::new(), Vec::new());
    for service in &snapshot.status.services {
        let name = || vec![service.name.clone()];
        usable.push((name(), f64::from(u8::from(service.active_priority.is_some()))));
        if let Some(priority) = service.active_priority {
            active.push((name(), f64::from(priority)));
        }
        let low = u64::from_str_radix(&service.table_digest, 16).unwrap_or(0) as u32;
        digest.push((name(), f64::from(low)));
        for backend in service.all_backends() {
            let labels = vec![service.name.clone(), backend.name.clone()];
            let mut tiered = labels.clone();
            tiered.push(backend.priority.to_string());
            up.push((tiered, f64::from(u8::from(backend.health == "up"))));
            live.push((labels.clone(), backend.live_dialogs as f64));
            ringing.push((labels.clone(), backend.ringing_dialogs as f64));
            let words = [Admin::Ready, Admin::Drain, Admin::Maint];
            admin.extend(words.map(|word| {
                let mut labels = labels.clone();
                labels.push(word.label().to_owned());
                (labels, f64::from(u8::from(backend.admin == word.label())))
            }));
        }
        let tiered = |backend: &BackendStatus| [backend.name.clone(), backend.priority.to_string()];
        for backend in &service.backends {
            share.push(([name(), tiered(backend).to_vec()].concat(), backend.share));
        }
        for set in &service.sets {
            let labels = || vec![service.name.clone(), set.name.clone()];
            set_usable.push((labels(), f64::from(u8::from(set.active_priority.is_some()))));
            if let Some(priority) = set.active_priority {
                set_active.push((labels(), f64::from(priority)));
            }
            for backend in &set.backends {
                set_share.push(([labels(), tiered(backend).to_vec()].concat(), backend.share));
            }
        }
    }
    page.gauge(names::BACKEND_UP, up)?;
    page.gauge(names::BACKEND_SHARE, share)?;
    page.gauge(names::SET_SHARE, set_share)?;
    page.gauge(names::SET_ACTIVE_PRIORITY, set_active)?;
    page.gauge(names::SET_USABLE, set_usable)?;
    page.gauge(names::BACKEND_ADMIN, admin)?;
    page.gauge(names::LIVE_DIALOGS, live)?;
    page.gauge(names::RINGING_DIALOGS, ringing)?;
    page.gauge(names::ACTIVE_PRIORITY, active)?;
    page.gauge(names::SERVICE_USABLE, usable)?;
    page.gauge(names::TABLE_DIGEST, digest)
}

fn dialogs(page: &mut Page, snapshot: &Snapshot) -> Result<()> {
    let census = &snapshot.census;
    let states = [
        ("unconfirmed", census.unconfirmed),
        ("ringing", census.ringing),
        ("ended", census.ended),
        ("confirmed-invite", census.confirmed_invite),
        ("confirmed-other", census.confirmed_other),
    ];
    let rows = states.map(|(state, count)| (vec![state.to_owned()], count as f64));
    page.gauge(names::DIALOG_ENTRIES, rows.to_vec())?;
    page.gauge(names::DIALOG_CAPACITY, vec![(vec![], snapshot.dialog_capacity as f64)])?;
    let evicted =
        [("unconfirmed", Event::DialogEvicted), ("confirmed", Event::DialogEvictedConfirmed)];
    let rows = evicted.map(|(state, event)| (vec![state.to_owned()], snapshot.events.of(event)));
    page.counter(names::DIALOG_EVICTIONS, rows.to_vec())?;
    let cleared = &snapshot.cleared;
    let rows = [
        ("expired", cleared.expired),
        ("duplicate", cleared.duplicates),
        ("invalid", cleared.invalid),
    ];
    let rows = rows.map(|(reason, count)| (vec![reason.to_owned()], count));
    page.counter(names::DIALOG_SWEPT, rows.to_vec())
}

fn controller(page: &mut Page, snapshot: &Snapshot) -> Result<()> {
    let reloads = snapshot.reloads;
    let rows = [("success", reloads.succeeded), ("failure", reloads.failed)];
    page.counter(names::RELOADS, rows.map(|(r, n)| (vec![r.to_owned()], n)).to_vec())?;
    page.gauge(names::LAST_RELOAD, vec![(vec![], reloads.last_success as f64)])?;
    let attached = snapshot.status.attached.iter();
    let rows =
        attached.map(|link| (vec![link.interface.clone(), link.mode.clone()], 1.0)).collect();
    page.gauge(names::ATTACHED, rows)?;
    page.gauge(names::BUILD_INFO, vec![(vec![snapshot.status.version.clone()], 1.0)])?;
    if let Some(program) = snapshot.program {
        page.counter(names::RUNS, vec![(vec![], program.runs)])?;
        page.seconds(names::SECONDS, program.time.as_secs_f64())?;
    }
    Ok(())
}
