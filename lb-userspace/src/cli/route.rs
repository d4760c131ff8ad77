//! `sip-lb route`: which backend does a Call-ID go to?

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use lb_common::hash;
use serde::Serialize;

use super::choice::{self, USAGE};
use crate::state::{
    route::{call_id_hash, expected},
    table::TableCache,
};

/// Exit code if no backend is left.
const NONE_LEFT: u8 = 1;

/// Say which backend a new dialog goes to
///
/// Computed from the configuration alone, as the XDP program does it: no instance has to run. All
/// backends count as healthy but those of --down.
#[derive(Clone, Debug, Args)]
pub struct RouteArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The service that the message is sent to
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The Call-ID, byte for byte
    #[arg(long, value_name = "CALL-ID")]
    pub call_id: String,
    /// A backend that is down; may be repeated
    #[arg(long, value_name = "SERVICE/BACKEND")]
    pub down: Vec<String>,
    /// Print an object instead of the name alone
    #[arg(long)]
    pub json: bool,
}

/// `route --json`.
#[derive(Debug, Serialize)]
struct Route<'a> {
    service: &'a str,
    call_id: &'a str,
    /// `None` if no backend is left.
    backend: Option<&'a str>,
    address: Option<SocketAddr>,
    priority: Option<u16>,
    key: &'static str,
    /// Of the service's 65,536.
    slot: u32,
}

/// Prints the answer. Returns the exit code.
///
/// # Errors
///
/// If the answer cannot be written.
pub fn run(args: &RouteArgs) -> Result<u8> {
    run_to(args, &mut io::stdout().lock())
}

/// [`run`] with another place for the answer.
///
/// # Errors
///
/// As [`run`].
pub fn run_to(args: &RouteArgs, out: &mut dyn Write) -> Result<u8> {
    let config = match choice::config(&args.config) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let Some(service) = config.services.iter().find(|s| s.name == args.service) else {
        let names: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
        let names = names.join(", ");
        eprintln!("sip-lb: --service {}: no such service; there are {names}", args.service);
        return Ok(USAGE);
    };
    let down = match choice::down(&config, &args.down) {
        Ok(down) => down,
        Err(message) => {
            eprintln!("sip-lb: {message}");
            return Ok(USAGE);
        }
    };
    let Some(hash) = call_id_hash(choice::hash_key(&config), args.call_id.as_bytes()) else {
        eprintln!(
            "sip-lb: --call-id: a Call-ID is not empty and has no blanks or line breaks in it"
        );
        return Ok(USAGE);
    };
    let down: BTreeSet<&str> = service
        .backends
        .iter()
        .filter(|b| down.contains(&b.address))
        .map(|b| b.name.as_str())
        .collect();
    let table = expected(&service.backends, &down, &mut TableCache::default());
    let name = table.backend(hash);
    let backend = service.backends.iter().find(|b| Some(b.name.as_str()) == name);
    if args.json {
        let route = Route {
            service: &service.name,
            call_id: &args.call_id,
            backend: name,
            address: backend.map(|b| b.address),
            priority: backend.map(|b| b.priority),
            key: "call-id",
            slot: hash::slot(hash),
        };
        serde_json::to_writer(&mut *out, &route)?;
        writeln!(out)?;
    } else if let Some(name) = name {
        writeln!(out, "{name}")?;
    }
    if name.is_none() {
        eprintln!("sip-lb: service {} has no backend left", service.name);
        return Ok(NONE_LEFT);
    }
    Ok(0)
}
