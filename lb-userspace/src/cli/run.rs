//! `sip-lb run`.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::exit;
use crate::{
    admin::{http, socket},
    config,
    controller::{Controller, Inbox, Parts, Source},
    datapath,
    host::{self, HostFacts, Severity, Wanted},
    metrics::Metrics,
    netlink,
    probe::{Prober, Sources},
    shutdown,
    slow::{
        Consumers, Kind,
        answer::{Answerer, RetryAfter},
        fragments::{Fragments, Limits},
        queue::{self, Counts},
        send::Sender,
    },
    watch::hub::Hub,
};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[arg(long, value_name = "FILE", default_value = "/etc/sip-lb/config.yaml")]
    config: PathBuf,
    /// Take the program off when ending; traffic then stops.
    #[arg(long)]
    detach_on_exit: bool,
    /// Let the kernel measure the program; costs about 45 ns a packet.
    #[arg(long)]
    bpf_stats: bool,
}

/// Runs until a signal.
pub(super) fn run(args: &RunArgs) -> Result<u8> {
    init_log();
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(exit::BAD_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        warn!("{}:{warning}", args.config.display());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(args, loaded))
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SIP_LB_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn serve(args: &RunArgs, loaded: config::Loaded) -> Result<u8> {
    let config = loaded.config;
    let signals = shutdown::listen()?;
    let (network, netlink) =
        netlink::spawn(netlink::Options::default()).await.context("cannot follow the network")?;
    let first = Arc::clone(&network.borrow());
    check_host(&config, &first).await?;

    // Before the sockets: a second instance is told who holds the program, not which port is taken.
    drop(datapath::pins::PinDir::take_existing(&config.pin_dir)?);
    let admin = socket::bind(&config.admin_socket)?;
    let http = http::bind(config.metrics_listen).await?;
    let mut opened = datapath::live::open(&config.pin_dir, &datapath::load::capacities(&config))?;
    datapath::logs::forward(&config.pin_dir, &datapath::load::capacities(&config))?;
    let slow_path = Arc::new(Counts::default());
    let sender = Sender::open().context("cannot open raw sockets, which needs CAP_NET_RAW")?;
    let rings = std::mem::take(&mut opened.rings);
    let held = opened.held.take();
    let stats = args.bpf_stats.then(datapath::live::time_programs).transpose()?;
    let metrics = Arc::new(Metrics::new()?);
    let (probe_sender, probes) = mpsc::channel(4096);
    let (request_sender, requests) = mpsc::channel(64);
    let source = Source {
        path: std::path::absolute(&args.config)?,
        config,
        digest: loaded.digest,
        loaded_at: SystemTime::now(),
    };
    let hub = Arc::new(Hub::default());
    let retry_after = RetryAfter::new(&source.config);
    let admin_socket = source.config.admin_socket.clone();
    let controller = Controller::start(Parts {
        source,
        opened,
        prober: Prober::start(Sources::default(), probe_sender),
        netlink,
        network: first,
        probe_metrics: metrics.probes(),
        slow_path: Arc::clone(&slow_path),
        retry_after: retry_after.clone(),
        hub: Arc::clone(&hub),
        count_program_time: stats.is_some(),
    })?;

    let answerer = Answerer::new(retry_after, controller.hash_key());
    let mut consumers = Consumers::default().on(Kind::NoBackend, answerer);
    if let Some(held) = held {
        consumers = consumers.on(Kind::Fragment, Fragments::new(held, Limits::DEFAULT));
    }
    queue::start(rings, consumers, sender, &slow_path, &hub)?;
    tokio::spawn(socket::serve(admin, request_sender.clone()));
    tokio::spawn(async move {
        if let Err(cause) = http::serve(http, request_sender, metrics).await {
            error!("{cause:#}");
        }
    });
    info!("ready");
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("cannot tell systemd")?;

    let controller = controller.run(Inbox { probes, network, requests, signals }).await?;
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).context("cannot tell systemd")?;
    if let Err(cause) = std::fs::remove_file(&admin_socket) {
        warn!("cannot remove {}: {cause}", admin_socket.display());
    }
    let pin_dir = controller.pin_dir().to_owned();
    drop(controller);
    if args.detach_on_exit {
        datapath::detach::detach(&pin_dir, datapath::detach::Force::No)?;
        info!("detached; traffic is no longer balanced");
    } else {
        info!(
            "traffic goes on by the pinned tables, without probes; `sip-lb detach --pin-dir {}` ends it",
            pin_dir.display()
        );
    }
    Ok(exit::DONE)
}

/// Is the host fit for this configuration? Errors end the start, warnings are said.
async fn check_host(config: &config::Config, network: &netlink::Network) -> Result<()> {
    let wanted = Wanted::from(config);
    let facts = HostFacts::read(&wanted, network).await?;
    let findings = host::check(&wanted, network, &facts);
    for finding in &findings {
        match finding.severity {
            Severity::Error => error!("{}; {}", finding.what, finding.remedy),
            Severity::Warning => warn!("{}; {}", finding.what, finding.remedy),
            Severity::Note => info!("{}; {}", finding.what, finding.remedy),
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        anyhow::bail!("this host cannot run the configuration; see above");
    }
    Ok(())
}
