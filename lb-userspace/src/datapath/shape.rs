//! What the maps must look like, and whether pinned ones do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::Path,
};

use aya::maps::MapInfo;
use aya_obj::Object;
use lb_common::maps::{Capacities, name};

use super::{
    error::{Error, Result, chain},
    load::{self, OBJECT},
};

/// What the kernel tells about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `bpf_map_type` of `linux/bpf.h`.
    pub map_type: u32,
    /// Sizes in bytes.
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> io::Result<Self> {
        Ok(Self {
            map_type: info.map_type().map_err(io::Error::other)? as u32,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// True if both hold the same kind of entries, however many.
    pub(crate) const fn same_entries(&self, other: &Self) -> bool {
        self.map_type == other.map_type
            && self.key == other.key
            && self.value == other.value
            && self.flags == other.flags
    }
}

pub(crate) type Shapes = BTreeMap<&'static str, Shape>;

/// What the embedded object wants for `capacities`.
pub(crate) fn wanted(capacities: &Capacities) -> Result<Shapes> {
    let object = Object::parse(OBJECT).map_err(|cause| Error::Object(chain(&cause)))?;
    let entries = load::entries(capacities);
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, cause)| Error::kernel(format!("read {path}"), cause))?;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    name::ALL
        .iter()
        .map(|&name| {
            let map = object.maps.get(name).ok_or(Error::Incomplete { kind: "map", name })?;
            let shape = Shape {
                map_type: map.map_type(),
                key: map.key_size(),
                value: map.value_size(),
                entries: match name {
                    // A ring for each CPU that there may be.
                    name::SLOW_PATH | name::WATCHED => cpus,
                    _ => entries.get(name).copied().unwrap_or_else(|| map.max_entries()),
                },
                flags: map.map_flags(),
            };
            Ok((name, shape))
        })
        .collect()
}

/// What is pinned in `directory`; maps of unknown names are left out.
pub(crate) fn pinned(directory: &Path) -> Result<Shapes> {
    let mut shapes = Shapes::new();
    for &name in name::ALL {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let open = || format!("open pinned map {}", path.display());
        let info = MapInfo::from_pin(&path).map_err(|cause| Error::aya(open(), cause))?;
        let shape = Shape::of(&info).map_err(|cause| Error::kernel(open(), cause))?;
        shapes.insert(name, shape);
    }
    Ok(shapes)
}

/// A map that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub name: &'static str,
    pub found: Option<Shape>,
    pub wanted: Option<Shape>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.found, self.wanted) {
            (Some(found), Some(wanted)) if found.same_entries(&wanted) => {
                write!(f, "{} has {} entries, not {}", self.name, found.entries, wanted.entries)
            }
            (Some(found), Some(wanted)) => {
                write!(f, "{} is {found:?}, not {wanted:?}", self.name)
            }
            (None, _) => write!(f, "{} is missing", self.name),
            (_, None) => write!(f, "{} is not known", self.name),
        }
    }
}

/// All differences, by name.
pub(crate) fn differences(found: &Shapes, wanted: &Shapes) -> Vec<Difference> {
    let names: BTreeSet<_> = found.keys().chain(wanted.keys()).copied().collect();
    names
        .into_iter()
        .map(|name| Difference {
            name,
            found: found.get(name).copied(),
            wanted: wanted.get(name).copied(),
        })
        .filter(|difference| difference.found != difference.wanted)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { map_type: 2, key: 4, value: 8, entries: 16, flags: 0 };

    #[test]
    fn every_field_of_a_shape_counts() {
        let wanted = Shapes::from([("A", SHAPE)]);
        assert_eq!(differences(&wanted, &wanted), []);
        for (found, entries_only) in [
            (Shape { map_type: 1, ..SHAPE }, false),
            (Shape { key: 8, ..SHAPE }, false),
            (Shape { value: 4, ..SHAPE }, false),
            (Shape { flags: 1 << 10, ..SHAPE }, false),
            (Shape { entries: 32, ..SHAPE }, true),
        ] {
            let found = Shapes::from([("A", found)]);
            let [difference] = differences(&found, &wanted)[..] else { panic!("{found:?}") };
            assert_eq!(difference.found.unwrap().same_entries(&SHAPE), entries_only);
        }
    }

    #[test]
    fn a_missing_map_is_a_difference() {
        let differences = differences(&Shapes::new(), &Shapes::from([("A", SHAPE)]));
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].to_string(), "A is missing");
    }
}
