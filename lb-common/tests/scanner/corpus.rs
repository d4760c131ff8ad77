//! The named odd datagrams of `tests/fixtures/messages`.

use std::fs;
use std::path::PathBuf;

use lb_common::sip::{MAX_LENGTH, Message, Method};
use serde::Deserialize;

use crate::agree::Reading;

/// One datagram and what its manifest entry says of it.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
    expected: Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    message: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    about: String,
    kind: String,
    method: Option<String>,
    status: Option<u16>,
    call_id: Option<String>,
    call_id_hex: Option<String>,
    #[serde(default)]
    duplicate: bool,
    to_tag: Option<bool>,
    cseq: Option<String>,
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/messages")
}

/// Every datagram of the manifest, in its order.
pub(crate) fn load() -> Result<Vec<Named>, String> {
    let read = |name: &str| {
        let path = folder().join(name);
        fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let manifest = String::from_utf8(read("manifest.toml")?).map_err(|e| e.to_string())?;
    let manifest: Manifest = toml::from_str(&manifest).map_err(|e| e.to_string())?;
    let named = |expected: Entry| {
        let payload = read(&expected.file)?;
        Ok(Named { name: format!("{} ({})", expected.file, expected.about), payload, expected })
    };
    manifest.message.into_iter().map(named).collect()
}

impl Named {
    /// The first thing in which a reading of the payload is not what the manifest says.
    pub(crate) fn check(&self, reading: &Reading) -> Result<(), String> {
        let expected = &self.expected;
        let kind = match (expected.kind.as_str(), &expected.method, expected.status) {
            ("request", Some(name), None) => Message::Request(method(name)?),
            ("response", None, Some(status)) => Message::Response(status),
            ("stun", None, None) => Message::Stun,
            ("keepalive", None, None) => Message::Keepalive,
            (kind, _, _) => return Err(format!("{}: odd kind {kind}", self.name)),
        };
        let value = match (&expected.call_id, &expected.call_id_hex) {
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(hex)) => Some(from_hex(hex)?),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(format!("{}: call_id given twice", self.name)),
        };
        let found = reading.call_id.map(|found| {
            let start = found.offset as usize;
            let end = start + value.as_ref().map_or(found.length as usize, Vec::len);
            self.payload.get(start..end).unwrap_or_default().to_vec()
        });
        let length = value.as_ref().map(|value| (value.len() as u32).min(MAX_LENGTH));
        let cseq = expected.cseq.as_deref().map(method).transpose()?;
        self.same("kind", reading.message, kind)?;
        self.same("call_id", found.as_deref().map(escaped), value.as_deref().map(escaped))?;
        self.same("length of call_id", reading.call_id.map(|found| found.length), length)?;
        self.same("duplicate", reading.headers.has_second_call_id, expected.duplicate)?;
        self.same("to_tag", reading.to_tag, expected.to_tag)?;
        self.same("cseq", reading.cseq, cseq)
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        found: T,
        expected: T,
    ) -> Result<(), String> {
        if found == expected {
            return Ok(());
        }
        Err(format!("{}: {what} is {found:?}, the manifest says {expected:?}", self.name))
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn method(name: &str) -> Result<Method, String> {
    Method::ALL
        .iter()
        .copied()
        .find(|method| method.name().unwrap_or("other") == name)
        .ok_or_else(|| format!("unknown method {name}; write other"))
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(format!("odd hex digit {byte:#x}"));
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(format!("{text}: odd number of hex digits"));
    };
    pairs.iter().map(|&[high, low]| Ok((digit(high)? << 4 | digit(low)?) as u8)).collect()
}
