//! What the device offers, and its configuration space (virtio 1.2, 5.2.4).

use ploop_engine::Limits;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{virtio_blk as blk, virtio_config, virtio_ring};

/// Bytes of the configuration space that mean something; more reads as zeros.
const SPACE: usize = 60;
/// Where the driver writes whether it wants a volatile cache.
pub(crate) const WRITEBACK: u32 = 32;
/// Most that a monitor may ask for at once.
const ASKED: u32 = 256;

/// Rings that are taken; a monitor sets up as many as it wants.
pub(crate) const RINGS: u16 = 64;
/// Largest ring.
pub(crate) const RING_SIZE: u16 = 1024;
/// Data segments of a request.
const SEGMENTS: u32 = 254;
/// Ranges of one discard or write-zeroes.
pub(crate) const RANGES: usize = 32;
/// Regions of guest memory.
pub(crate) const REGIONS: u64 = 64;

/// What the guest is told about the disk by GET_ID: up to 20 bytes of text.
pub type Identity = [u8; 20];

/// The device as a driver sees it.
pub(crate) struct Config {
    size: AtomicU64,
    limits: Limits,
    pub identity: Identity,
    /// The driver wants a volatile cache.
    writeback: AtomicBool,
}

const fn bit(n: u32) -> u64 {
    1 << n
}

impl Config {
    pub fn new(limits: Limits, identity: Identity) -> Self {
        let (size, writeback) = (AtomicU64::new(limits.size), AtomicBool::new(true));
        Self { size, limits, identity, writeback }
    }

    pub fn set_size(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Relaxed);
    }

    /// Feature bits of virtio and vhost.
    pub fn features(&self) -> u64 {
        let writes = match self.limits.read_only {
            true => bit(blk::VIRTIO_BLK_F_RO),
            false => bit(blk::VIRTIO_BLK_F_DISCARD) | bit(blk::VIRTIO_BLK_F_WRITE_ZEROES),
        };
        writes
            | bit(blk::VIRTIO_BLK_F_SEG_MAX)
            | bit(blk::VIRTIO_BLK_F_BLK_SIZE)
            | bit(blk::VIRTIO_BLK_F_TOPOLOGY)
            | bit(blk::VIRTIO_BLK_F_FLUSH)
            | bit(blk::VIRTIO_BLK_F_CONFIG_WCE)
            | bit(blk::VIRTIO_BLK_F_MQ)
            | bit(virtio_config::VIRTIO_F_VERSION_1)
            | bit(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
            | bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// What of the protocol is spoken.
    pub fn protocol() -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// A part of the configuration space; `None` when that much is never asked for.
    pub fn read(&self, offset: u32, len: u32) -> Option<Vec<u8>> {
        let end = offset.checked_add(len).filter(|end| *end <= ASKED)?;
        let mut space = self.space().to_vec();
        space.resize(ASKED as usize, 0);
        Some(space[offset as usize..end as usize].to_vec())
    }

    fn space(&self) -> [u8; SPACE] {
        let mut space = [0; SPACE];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        let l = &self.limits;
        let physical = l.physical_block.max(l.block);
        let ratio = physical / l.block;
        let blocks = |bytes: u64| u32::try_from(bytes / u64::from(l.block)).unwrap_or(u32::MAX);
        let sectors = u32::try_from(l.max_zero >> 9).unwrap_or(u32::MAX);
        // To the cluster, so that the driver gives whole ones back.
        let aligned = u32::try_from(l.cluster >> 9).unwrap_or(u32::MAX);
        put(0, &(self.size.load(Ordering::Relaxed) >> 9).to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &l.block.to_le_bytes());
        put(24, &[ratio.ilog2() as u8, 0]);
        put(26, &u16::try_from(ratio).unwrap_or(1).to_le_bytes());
        put(28, &blocks(l.cluster).to_le_bytes());
        put(WRITEBACK as usize, &[u8::from(self.writeback.load(Ordering::Relaxed))]);
        put(34, &RINGS.to_le_bytes());
        put(36, &sectors.to_le_bytes());
        put(40, &(RANGES as u32).to_le_bytes());
        put(44, &aligned.to_le_bytes());
        put(48, &sectors.to_le_bytes());
        put(52, &(RANGES as u32).to_le_bytes());
        put(56, &[1]);
        space
    }

    /// The driver writes into the space: only the cache's byte can be written.
    pub fn write(&self, offset: u32, bytes: &[u8]) -> bool {
        match (offset, bytes) {
            (WRITEBACK, [wish @ 0..=1]) => {
                self.writeback.store(*wish == 1, Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }

    /// A driver starts anew: the cache is volatile until it says something else.
    pub fn reset(&self) {
        self.writeback.store(true, Ordering::SeqCst);
    }

    /// Whether an answered write may still be in a cache, for a driver with these features. One
    /// that cannot flush must not have to.
    pub fn is_volatile(&self, features: u64) -> bool {
        let flushes = features & bit(blk::VIRTIO_BLK_F_FLUSH) != 0;
        let chooses = features & bit(blk::VIRTIO_BLK_F_CONFIG_WCE) != 0;
        flushes && (!chooses || self.writeback.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const LIMITS: Limits = Limits {
        size: 1 << 30,
        block: 512,
        physical_block: 4096,
        cluster: 1 << 20,
        buffer_align: 512,
        max_transfer: 1 << 20,
        max_zero: 1 << 30,
        read_only: false,
    };

    fn word(space: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(space[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_space_says_what_the_device_takes() {
        let config = Config::new(LIMITS, *b"ploop-0123456789abcd");
        let space = config.read(0, 60).unwrap();
        assert_eq!(word(&space, 0), 1 << 21, "sectors");
        assert_eq!((word(&space, 20), space[24]), (512, 3), "blocks");
        assert_eq!((word(&space, 36), word(&space, 44)), (1 << 21, 2048), "discard");
        assert_eq!(space[32], 1, "a volatile cache");
        // A monitor that knows of a larger space reads zeros, not an error.
        assert_eq!(config.read(0, 96).unwrap()[60..], [0; 36]);
        assert!(config.read(u32::MAX, 2).is_none() && config.read(250, 7).is_none());
        config.set_size(1 << 31);
        assert_eq!(word(&config.read(0, 8).unwrap(), 0), 1 << 22);
    }

    #[test]
    fn the_cache_is_volatile_only_for_a_driver_that_flushes() {
        let config = Config::new(LIMITS, [0; 20]);
        let all = config.features();
        assert!(config.is_volatile(all));
        assert!(!config.is_volatile(all & !bit(blk::VIRTIO_BLK_F_FLUSH)));
        assert!(config.write(WRITEBACK, &[0]) && !config.is_volatile(all));
        assert!(config.is_volatile(all & !bit(blk::VIRTIO_BLK_F_CONFIG_WCE)));
        assert!(!config.write(WRITEBACK, &[2]) && !config.write(0, &[1; 8]));
        config.reset();
        assert!(config.is_volatile(all));
    }
}
