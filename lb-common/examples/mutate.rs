//! Runs the scanner and its slow reference over mutants of the named messages and compares them:
//! `cargo run --release -p lb-common --example mutate -- 1000000 [SEED]`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[path = "../tests/scanner/agree.rs"]
mod agree;
#[path = "../tests/scanner/corpus.rs"]
mod corpus;
#[path = "../tests/scanner/mutate.rs"]
mod mutate;
#[path = "../tests/scanner/reference.rs"]
mod reference;

/// The mutant under test, for the message of a panic.
static CURRENT: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mutate: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut numbers = std::env::args().skip(1).map(|text| {
        text.parse::<u64>().map_err(|e| format!("{text}: {e}; give a number of mutants and a seed"))
    });
    let count = numbers.next().transpose()?.unwrap_or(1_000_000);
    let seed = numbers.next().transpose()?.unwrap_or(1);
    let mut payloads = Vec::new();
    for named in corpus::load()? {
        named.check(&agree::read(&named.payload)?)?;
        payloads.push(named.payload);
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("mutant {} of seed {seed}:", CURRENT.load(Ordering::Relaxed));
        report(info);
    }));

    let start = Instant::now();
    let (mut bytes, mut call_ids, mut tags, mut methods) = (0, 0u64, 0u64, 0u64);
    for n in 0..count {
        CURRENT.store(n, Ordering::Relaxed);
        let payload = mutate::mutant(&payloads, seed, n);
        bytes += payload.len();
        match agree::read(&payload) {
            Ok(reading) => {
                call_ids += u64::from(reading.call_id.is_some());
                tags += u64::from(reading.to_tag == Some(true));
                methods += u64::from(reading.cseq.is_some());
            }
            Err(e) => {
                let least = mutate::smallest(payload, |payload| agree::read(payload).is_err());
                return Err(format!(
                    "mutant {n} of seed {seed}: {e}; \"{}\"",
                    least.escape_ascii()
                ));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} mutants of {} messages, {} bytes on average: all read alike; \
         {call_ids} with a Call-ID, {tags} with a To tag, {methods} with a CSeq; {:.0} a second",
        payloads.len(),
        bytes / count.max(1) as usize,
        count as f64 / seconds
    );
    Ok(())
}
