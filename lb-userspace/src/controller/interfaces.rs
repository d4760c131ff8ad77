//! The program on the configured interfaces, and on no others.

use anyhow::Result;
use tracing::error;

use super::Controller;
use crate::datapath;

impl Controller {
    /// Attaches configured interfaces that are not: new ones, and those that came back.
    pub(super) fn reattach(&mut self) {
        let attached = match datapath::attach::attached(self.live.pin_dir()) {
            Ok(attached) => attached,
            Err(cause) => return error!("cannot list the links: {cause}"),
        };
        for interface in self.source.config.interfaces.clone() {
            let Some(link) = self.network.link_by_name(&interface) else {
                continue;
            };
            if attached.iter().any(|a| a.ifindex == link.index) {
                continue;
            }
            if let Err(cause) = self.live.attach(&interface, self.source.config.xdp_mode) {
                error!(interface, "{cause}");
            }
        }
    }

    /// Takes the program off interfaces that are not configured any more.
    pub(super) fn drop_other_interfaces(&mut self) -> Result<()> {
        let keep: Vec<u32> = self
            .source
            .config
            .interfaces
            .iter()
            .filter_map(|name| Some(self.network.link_by_name(name)?.index))
            .collect();
        self.live.detach_others(&keep)?;
        Ok(())
    }
}
