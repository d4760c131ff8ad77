//! `sip-lb route`: which backend does a request go to?

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;
use lb_common::{hash, sip::Method};
use serde::Serialize;

use super::choice::{self, USAGE};
use crate::state::{
    choose::{self, Request},
    route::expected,
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
    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "INVITE")]
    pub method: String,
    /// The Request-URI, for domain rules and balance request-user and request-domain
    #[arg(long, value_name = "URI")]
    pub request_uri: Option<String>,
    /// The From header's value, for balance from-user
    #[arg(long, value_name = "VALUE")]
    pub from: Option<String>,
    /// The To header's value, for balance to-user, and for REGISTER request-user
    #[arg(long, value_name = "VALUE")]
    pub to: Option<String>,
    /// The client's address, for balance source-ip
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
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
    /// What the rule matches first that led to the backend; empty for the service's own set.
    set: &'a str,
    key: &'static str,
    /// Of the set's 65,536.
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
    let Some(method) = Method::ALL.iter().find(|m| m.name() == Some(args.method.as_str())) else {
        let names: Vec<_> = Method::ALL.iter().filter_map(|method| method.name()).collect();
        eprintln!("sip-lb: --method {}: allowed are {}", args.method, names.join(", "));
        return Ok(USAGE);
    };
    let request = Request {
        call_id: &args.call_id,
        method: *method,
        uri: args.request_uri.as_deref(),
        from: args.from.as_deref(),
        to: args.to.as_deref(),
        source: args.source,
    };
    let answer = choose::set(service, &request)
        .and_then(|set| Ok((set, choose::hash(service, choice::hash_key(&config), &request)?)));
    let (set, (hash, key)) = match answer {
        Ok(answer) => answer,
        Err(why) => {
            eprintln!("sip-lb: service {}: {why}", service.name);
            return Ok(USAGE);
        }
    };
    let down: BTreeSet<&str> = set
        .backends
        .iter()
        .filter(|b| down.contains(&b.address))
        .map(|b| b.name.as_str())
        .collect();
    let table = expected(set.backends, service.balance, &down, &mut TableCache::default());
    let name = table.backend(hash);
    let backend = set.backends.iter().find(|b| Some(b.name.as_str()) == name);
    if args.json {
        let route = Route {
            service: &service.name,
            call_id: &args.call_id,
            backend: name,
            address: backend.map(|b| b.address),
            priority: backend.map(|b| b.priority),
            set: &set.name(),
            key: key.label().unwrap_or_default(),
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
