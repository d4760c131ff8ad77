//! How many probes a second the prober sustains on one core.
//!
//! `cargo run --release -p lb-userspace --example probe_rate [PROBES_PER_SECOND] [ENDPOINTS] [SECONDS]`
//!
//! The prober runs on one thread and probes that many endpoints on loopback, answered by another
//! thread. What counts is the processor time of the prober's thread for each probe, kernel work for
//! both directions included: it says what one core could sustain even when the machine is busy.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::{
    config::model::{Expect, HealthCheck, Initial},
    probe::{ProbeResult, Prober, Sources},
};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio::sync::mpsc;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| -> Result<u32> {
        let number = arguments.next().map_or(Ok(default), |argument| argument.parse());
        number.context("usage: probe_rate [PROBES_PER_SECOND] [ENDPOINTS] [SECONDS]")
    };
    let (rate, endpoints, seconds) = (number(5_000)?, number(250)?, number(10)?);
    ensure!(rate > 0 && endpoints > 0 && seconds > 0, "every number must be above 0");

    let addresses = (0..endpoints).map(|_| backend()).collect::<Result<Vec<_>>>()?;
    let interval = Duration::from_secs(1) * endpoints / rate;
    let check = HealthCheck {
        method: "OPTIONS".into(),
        interval,
        fast_interval: interval,
        timeout: interval.max(Duration::from_secs(1)),
        rise: 1,
        fall: 3,
        expect: Expect::Any,
        initial: Initial::Up,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&addresses, &check, Duration::from_secs(seconds.into())))
}

async fn measure(addresses: &[SocketAddr], check: &HealthCheck, length: Duration) -> Result<()> {
    let (sender, mut events) = mpsc::channel(4096);
    let prober = Prober::start(Sources::default(), sender);
    prober.set_endpoints(addresses.iter().map(|&a| (a, Some(check.clone()))).collect())?;
    // Until every endpoint had its first, jittered probe.
    let warm = Instant::now() + Duration::from_secs(3);
    while Instant::now() < warm {
        events.recv().await.context("the prober has ended")?;
    }

    let (begin, used_before) = (Instant::now(), thread_time()?);
    let (mut answered, mut failed, mut durations) = (0_u32, 0_u32, Vec::new());
    while begin.elapsed() < length {
        let event = events.recv().await.context("the prober has ended")?;
        match event.result {
            ProbeResult::Answered { .. } => answered += 1,
            ProbeResult::Timeout
            | ProbeResult::PortUnreachable
            | ProbeResult::Unreachable
            | ProbeResult::Malformed
            | ProbeResult::SendError => failed += 1,
        }
        durations.push(event.duration);
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let used = (thread_time()? - used_before).as_secs_f64();
    prober.stop().await?;

    durations.sort_unstable();
    let ended = f64::from(answered + failed);
    println!(
        "{:.0} probes/s on {} endpoints, {failed} of {ended} failed; {:.1} us of processor a probe, \
         {:.0} % of one core; one core sustains {:.0}/s; answer after {:?} (median), {:?} (99 %)",
        ended / elapsed,
        addresses.len(),
        used / ended * 1e6,
        used / elapsed * 100.0,
        ended / used,
        durations[durations.len() / 2],
        durations[durations.len() * 99 / 100],
    );
    Ok(())
}

/// Processor time of the calling thread, user and system.
fn thread_time() -> Result<Duration> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let microseconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(microseconds(usage.user_time()) + microseconds(usage.system_time()))
}

/// A server that turns every request into its 200, as cheaply as it can.
fn backend() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    thread::Builder::new().stack_size(64 * 1024).spawn(move || answer(&socket))?;
    Ok(address)
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // The prober's socket is closed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(error) => return eprintln!("a backend cannot receive: {error}"),
        };
        let request = &buffer[..length];
        let start_line = request.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let reply = [b"SIP/2.0 200 OK\r\n", &request[start_line..]].concat();
        if let Err(error) = socket.send_to(&reply, from) {
            eprintln!("a backend cannot answer: {error}");
        }
    }
}
