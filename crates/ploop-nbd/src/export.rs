//! What is served: one device, seen through one export.

use crate::error::{Error, Result};
use crate::protocol::handshake::Offer;
use crate::protocol::option::MAX_NAME;
use crate::protocol::request::Agreed;
use crate::protocol::{MAX_PAYLOAD, handshake::Terms};
use ploop_engine::Limits;

/// Longest description.
const MAX_DESCRIPTION: usize = 1024;

/// An export of the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Its name; clients ask for the empty one unless told otherwise.
    pub name: String,
    /// For people; shown by `nbdinfo`.
    pub description: String,
    /// Refuse writes, also when the device takes them.
    pub read_only: bool,
    /// What the device takes.
    pub limits: Limits,
}

impl ExportInfo {
    pub(crate) fn check(&self) -> Result<()> {
        for (what, text, max) in
            [("name", &self.name, MAX_NAME), ("description", &self.description, MAX_DESCRIPTION)]
        {
            if text.len() > max {
                return Err(Error::TooLong { what, len: text.len(), max });
            }
        }
        Ok(())
    }

    pub(crate) fn offer(&self) -> Offer {
        let limits = &self.limits;
        let preferred = limits.physical_block.max(4096).max(limits.block);
        Offer {
            name: self.name.clone(),
            description: self.description.clone(),
            size: limits.size,
            read_only: self.read_only || limits.read_only,
            // Clients may ignore it, and some do: any byte range is served.
            block: 1,
            preferred: preferred.next_power_of_two().min(MAX_PAYLOAD),
        }
    }

    pub(crate) fn agreed(&self, terms: Terms, size: u64) -> Agreed {
        Agreed {
            structured: terms.structured,
            block_status: terms.block_status,
            read_only: self.read_only || self.limits.read_only,
            size,
        }
    }
}
