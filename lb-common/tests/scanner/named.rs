//! The scanner on the named odd datagrams, and on every prefix of each.

use std::collections::BTreeSet;
use std::fs;

use crate::{agree, corpus};

#[test]
fn every_named_message_reads_as_its_manifest_says() {
    let messages = corpus::load().unwrap();
    assert!(messages.len() >= 200, "only {} messages", messages.len());
    let mut wrong = Vec::new();
    for message in &messages {
        match agree::read(&message.payload) {
            Ok(reading) => wrong.extend(message.check(&reading).err()),
            Err(e) => wrong.push(format!("{}: {e}", message.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_prefix_of_every_named_message_reads_as_the_reference_does() {
    let mut prefixes = 0;
    for message in corpus::load().unwrap() {
        for end in 0..=message.payload.len() {
            if let Err(e) = agree::read(&message.payload[..end]) {
                panic!("{}: the first {end} bytes: {e}", message.name);
            }
            prefixes += 1;
        }
    }
    assert!(prefixes > 60_000, "only {prefixes} prefixes");
}

#[test]
fn every_file_has_one_manifest_entry() {
    let names: Vec<String> = corpus::load()
        .unwrap()
        .iter()
        .map(|message| message.name.split(' ').next().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(listed.len(), names.len(), "a file is listed twice");
    let files: BTreeSet<String> = fs::read_dir(corpus::folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".sip"))
        .collect();
    assert_eq!(files, listed);
}
