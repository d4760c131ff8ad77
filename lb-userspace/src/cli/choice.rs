//! What `route` and `replay` have in common: the hash key and the backends taken as down.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use aya::maps::{Array, Map, MapData};
use lb_common::{
    hash::HashKey,
    maps::{Settings, name},
};

use crate::{
    config::{self, Config},
    datapath::generation,
    state::route::derive_key,
};

/// Exit code of a wrong argument or a bad configuration.
pub(super) const USAGE: u8 = super::exit::BAD_CONFIG;

/// The configuration in `file`, or the exit code if it is not valid, which is then said.
///
/// # Errors
///
/// [`USAGE`].
pub(super) fn config(file: &Path) -> Result<Config, u8> {
    config::load(file).map(|loaded| loaded.config).map_err(|errors| {
        eprintln!("{errors}");
        USAGE
    })
}

/// The addresses of the backends given as `SERVICE/BACKEND`. Health belongs to the address: every
/// service that uses one of these sees it down.
///
/// # Errors
///
/// A name that does not exist, with those that do.
pub(super) fn down(config: &Config, given: &[String]) -> Result<BTreeSet<SocketAddr>, String> {
    let backends: Vec<(String, SocketAddr)> = config
        .services
        .iter()
        .flat_map(|s| s.all_backends().map(|b| (format!("{}/{}", s.name, b.name), b.address)))
        .collect();
    let find = |wanted: &String| {
        backends.iter().find(|(name, _)| name == wanted).map(|(_, address)| *address).ok_or_else(
            || {
                let names: Vec<_> = backends.iter().map(|(name, _)| name.as_str()).collect();
                format!("--down {wanted}: no such backend; there are {}", names.join(", "))
            },
        )
    };
    given.iter().map(find).collect()
}

/// The key of the Call-ID hash: the configured one, else that of the running instance, else the
/// empty one, which is said.
#[must_use]
pub(super) fn hash_key(config: &Config) -> HashKey {
    if let Some(key) = &config.hash_key {
        return derive_key(key);
    }
    match pinned_key(&config.pin_dir) {
        Ok(key) => key,
        Err(why) => {
            eprintln!(
                "sip-lb: warning: the configuration has no hash_key and {why}: choosing by the \
                 empty key, a live instance will differ"
            );
            derive_key("")
        }
    }
}

/// The key that an instance has pinned; else why there is none.
fn pinned_key(pin_dir: &Path) -> Result<HashKey, String> {
    let pin = generation::current(pin_dir).join(name::SETTINGS);
    match pin.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(format!("none is pinned in {}", pin_dir.display())),
        Err(cause) => return Err(format!("{} cannot be looked at ({cause})", pin_dir.display())),
    }
    let failed = |cause: &dyn std::error::Error| {
        format!("the pinned one in {} cannot be read ({cause})", pin.display())
    };
    let map = MapData::from_pin(&pin).map_err(|cause| failed(&cause))?;
    let settings: Array<MapData, Settings> =
        Map::Array(map).try_into().map_err(|cause: aya::maps::MapError| failed(&cause))?;
    let settings = settings.get(&0, 0).map_err(|cause| failed(&cause))?;
    if settings.key == HashKey::default() {
        return Err(format!("the one in {} is not written yet", pin.display()));
    }
    Ok(settings.key)
}
