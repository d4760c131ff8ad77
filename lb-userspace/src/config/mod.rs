//! The configuration: file → tree with positions → checked values → [`Config`].
//!
//! [`load`] reports everything that is wrong with a file in one go, each with line, column and key
//! path. The steps:
//!
//! 1. limits that hold before anything is parsed: size, text (`tree`);
//! 2. the tree, which knows where each value stands (`tree`);
//! 3. the structure, against the one table of keys, with defaults filled in (`shape`, `schema`);
//! 4. serde reads what passed (`raw`);
//! 5. the rules between keys (`rules`, `health`);
//! 6. the model, which cannot be invalid (`build`, [`model`]).

pub mod alias;
mod build;
mod error;
mod health;
mod json_schema;
pub mod model;
mod place;
mod raw;
mod rules;
mod schema;
mod shape;
mod tree;
mod values;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

pub use error::{ConfigErrors, Finding};
pub use json_schema::json_schema;
pub use model::Config;
pub use values::show_duration;

use error::{Errors, Position};
use place::Place;

/// A valid configuration and what is worth saying about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// What works but is probably not meant, in file order.
    pub warnings: Vec<Finding>,
    /// First 16 hex digits of the file's SHA-256.
    pub digest: String,
}

/// Reads and checks a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let fail = |error| ConfigErrors { file: path.to_owned(), errors: vec![error] };
    let bytes = read(path).map_err(|e| {
        let message = format!("cannot read the file: {e}");
        fail(Finding::new(Position::WHOLE_FILE, "", message))
    })?;
    refuse_size(bytes.len()).map_err(fail)?;
    let text = str::from_utf8(&bytes).map_err(|e| {
        let before = bytes.split_at(e.valid_up_to()).0;
        let at = tree::end_of(&String::from_utf8_lossy(before));
        let byte = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
        let message = format!("found the byte 0x{byte:02x}, allowed is UTF-8 text");
        fail(Finding::new(at, "", message))
    })?;
    let dir = path.parent().unwrap_or(Path::new(""));
    parse(text, dir).map_err(|e| ConfigErrors { file: path.to_owned(), ..e })
}

/// Checks the text of a file in `dir`; errors name no file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, dir: &Path) -> Result<Loaded, ConfigErrors> {
    let file = PathBuf::from("configuration");
    let mut errors = Errors::default();
    match parse_into(text, dir, &mut errors) {
        Some(loaded) if errors.is_empty() => Ok(loaded),
        Some(_) | None => Err(ConfigErrors { file, errors: errors.into_sorted() }),
    }
}

/// `None` if there are errors.
fn parse_into(text: &str, dir: &Path, errors: &mut Errors) -> Option<Loaded> {
    // A byte order mark belongs to the encoding, not to the text.
    let document = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree = match refuse_size(text.len()).and_then(|()| tree::parse(document)) {
        Ok(tree) => tree,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    let value = shape::check(&tree, &schema::ROOT, "", errors);
    if value.is_null() {
        return None;
    }
    let raw: raw::RawConfig = match serde_yaml::from_value(value) {
        Ok(raw) => raw,
        // What passed the check but is not what serde expects is a defect of this program; the
        // file is refused all the same.
        Err(e) => {
            errors.push(Finding::new(Position::WHOLE_FILE, "", format!("cannot be used: {e}")));
            return None;
        }
    };
    let root = Place::root(&tree);
    rules::check(&raw, &root, errors);
    let hash_key = build::hash_key(&raw, &root, dir, errors);
    if !errors.is_empty() {
        return None;
    }
    let warnings = rules::warnings(&raw, &root);
    let Some(config) = build::config(raw, hash_key) else {
        let message = "cannot be used, although no error was found in it";
        errors.push(Finding::new(Position::WHOLE_FILE, "", message));
        return None;
    };
    Some(Loaded { config, warnings, digest: digest(text.as_bytes()) })
}

/// At most one byte more than is allowed, so that a huge file costs nothing.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(tree::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn refuse_size(bytes: usize) -> Result<(), Finding> {
    if bytes <= tree::MAX_BYTES {
        return Ok(());
    }
    let message = format!("found more than {0} bytes, allowed are at most {0}", tree::MAX_BYTES);
    Err(Finding::new(Position::START, "", message))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
