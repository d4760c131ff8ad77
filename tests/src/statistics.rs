//! Reads SIPp's statistics: a header line, then a line of values each second.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// The newest line of a statistics file.
#[derive(Debug)]
pub(crate) struct Statistics(BTreeMap<String, String>);

impl Statistics {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} has no statistics yet", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        // The last line may be half written.
        let whole = &text[..=text.rfind('\n')?];
        let mut lines = whole.lines();
        let names: Vec<_> = lines.next()?.split(';').collect();
        let values = lines.rfind(|line| line.split(';').count() >= names.len())?;
        let pairs = names.into_iter().map(str::to_owned).zip(values.split(';').map(str::to_owned));
        Some(Self(pairs.collect()))
    }

    /// A count by its column.
    pub(crate) fn get(&self, column: &str) -> Result<u64> {
        let value = self.0.get(column).with_context(|| format!("no column `{column}`"))?;
        value.parse().with_context(|| format!("column `{column}` holds `{value}`"))
    }

    /// All reasons of failed calls that occurred.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.0
            .iter()
            .filter_map(|(name, value)| {
                let reason = name.strip_prefix("Failed")?.strip_suffix("(C)")?;
                let count = value.parse().ok().filter(|count| *count > 0)?;
                (reason != "Call").then(|| (reason.to_owned(), count))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_line_counts() {
        let text = "StartTime;FailedCall(C);FailedMaxUDPRetrans(C);invites(C);\n\
                    now;0;0;1;\nnow;2;2;7;\nnow;9;";
        let statistics = Statistics::parse(text).unwrap();
        assert_eq!(statistics.get("invites(C)").unwrap(), 7);
        assert_eq!(statistics.get("FailedCall(C)").unwrap(), 2);
        assert_eq!(statistics.failures(), BTreeMap::from([("MaxUDPRetrans".to_owned(), 2)]));
        assert!(statistics.get("nothing").is_err());
        assert!(Statistics::parse("StartTime;\n").is_none());
        assert!(Statistics::parse("").is_none());
    }
}
