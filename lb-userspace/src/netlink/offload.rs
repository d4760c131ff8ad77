//! What a NIC does to packets before an XDP program sees them, or leaves to be done after.

use std::{collections::BTreeMap, pin::pin};

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit};
use futures_util::StreamExt;

/// The features (as `ethtool -k` groups them) that matter to an XDP program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Large receive offload: several packets arrive as one.
    pub lro: bool,
    /// The NIC takes the VLAN tag off: an XDP program does not see it.
    pub rx_vlan: bool,
    /// Locally sent packets leave without a checksum, for the NIC to fill in. Between veth ends
    /// nobody does.
    pub tx_checksum: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    #[error("cannot open a netlink socket for ethtool")]
    Open(#[source] std::io::Error),
    /// `interface`, then the kernel's answer.
    #[error("cannot read the offload settings of {0}: {1}")]
    Refused(String, String),
}

impl Offloads {
    fn from_active(active: &BTreeMap<&str, bool>) -> Self {
        let on = |name: &str| active.get(name).copied().unwrap_or(false);
        Self {
            lro: on("rx-lro"),
            rx_vlan: on("rx-vlan-hw-parse"),
            tx_checksum: on("tx-checksum-ip-generic")
                || on("tx-checksum-ipv4")
                || on("tx-checksum-ipv6"),
        }
    }
}

/// Asks the driver of an interface of the calling thread's network namespace.
///
/// # Errors
/// The interface does not exist or has no such settings.
pub async fn offloads(interface: &str) -> Result<Offloads, OffloadError> {
    let (connection, mut handle, _) = ethtool::new_connection().map_err(OffloadError::Open)?;
    let connection = tokio::spawn(connection);
    let refused =
        |error: ethtool::EthtoolError| OffloadError::Refused(interface.into(), error.to_string());
    let result = async {
        let mut answers =
            pin!(handle.feature().get(Some(interface)).execute().await.map_err(refused)?);
        let mut active: Vec<EthtoolFeatureBit> = Vec::new();
        while let Some(answer) = answers.next().await {
            for attribute in answer.map_err(refused)?.payload.nlas {
                if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
                    active.extend(bits);
                }
            }
        }
        let active = active.iter().map(|bit| (bit.name.as_str(), bit.value)).collect();
        Ok(Offloads::from_active(&active))
    };
    let result = result.await;
    connection.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_recognised_by_the_kernels_names() {
        let of = |names: &[(&'static str, bool)]| {
            Offloads::from_active(&names.iter().copied().collect())
        };
        assert_eq!(of(&[("rx-gro", true), ("tx-vlan-hw-insert", true)]), Offloads::default());
        assert_eq!(of(&[("rx-lro", true)]), Offloads { lro: true, ..Offloads::default() });
        assert_eq!(of(&[("rx-lro", false)]), Offloads::default());
        let vlan = Offloads { rx_vlan: true, ..Offloads::default() };
        assert_eq!(of(&[("rx-vlan-hw-parse", true)]), vlan);
        for name in ["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"] {
            assert!(of(&[(name, true)]).tx_checksum, "{name}");
        }
    }
}
