//! The driver's structures and numbers, in bytes of this machine's order.
//!
//! Every structure is written and read field by field: no layout is left to a compiler.

/// Longest queue.
pub const MAX_DEPTH: u16 = 4096;
/// Bytes of an [`IoDesc`].
pub const IO_DESC_BYTES: usize = 24;

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

/// An ioctl-like number of the driver's.
const fn number(direction: u32, nr: u32, size: u32) -> u32 {
    direction << 30 | size << 16 | (b'u' as u32) << 8 | nr
}

/// Commands on the control file.
pub mod control {
    use super::{CtrlCmd, READ, READ_WRITE, number};

    const SIZE: u32 = CtrlCmd::BYTES as u32;
    /// Describe a device.
    pub const GET_DEV_INFO: u32 = number(READ, 0x02, SIZE);
    /// Make a device.
    pub const ADD_DEV: u32 = number(READ_WRITE, 0x04, SIZE);
    /// Remove a device and wait for its last user.
    pub const DEL_DEV: u32 = number(READ_WRITE, 0x05, SIZE);
    /// Make the disk of a device whose queues have fetched.
    pub const START_DEV: u32 = number(READ_WRITE, 0x06, SIZE);
    /// Take the disk away.
    pub const STOP_DEV: u32 = number(READ_WRITE, 0x07, SIZE);
    /// Say what the disk is like.
    pub const SET_PARAMS: u32 = number(READ_WRITE, 0x08, SIZE);
    /// Take over a device whose server is gone.
    pub const START_USER_RECOVERY: u32 = number(READ_WRITE, 0x10, SIZE);
    /// The new server's queues have fetched.
    pub const END_USER_RECOVERY: u32 = number(READ_WRITE, 0x11, SIZE);
    /// Changes the size of a disk that runs.
    pub const UPDATE_SIZE: u32 = number(READ_WRITE, 0x15, SIZE);
    /// What the driver can do.
    pub const GET_FEATURES: u32 = number(READ, 0x13, SIZE);
}

/// Commands on a device's own file.
pub mod io {
    use super::{IoCmd, READ_WRITE, number};

    /// Ask for the first request of a tag.
    pub const FETCH: u32 = number(READ_WRITE, 0x20, IoCmd::BYTES as u32);
    /// Answer a tag's request and ask for its next.
    pub const COMMIT_AND_FETCH: u32 = number(READ_WRITE, 0x21, IoCmd::BYTES as u32);
}

/// Flags of a device, and what the driver can do.
pub mod feature {
    /// The server has requests' memory put on its ring.
    pub const ZERO_COPY: u64 = 1;
    /// Requests wait when the server is gone, until another takes over.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// What was with the lost server comes again.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands have ioctl-like numbers.
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    /// The server copies data by reading and writing the device's own file.
    pub const USER_COPY: u64 = 1 << 7;
    /// The size of a running device can change.
    pub const UPDATE_SIZE: u64 = 1 << 10;
    /// The driver puts requests' memory on the server's ring by itself.
    pub const AUTO_BUFFERS: u64 = 1 << 11;
    /// A server may leave its device in good order.
    pub const QUIESCE: u64 = 1 << 12;
}

/// States of a device.
pub mod state {
    /// It has no disk.
    pub const DEAD: u16 = 0;
    /// It waits for a server.
    pub const QUIESCED: u16 = 2;
}

/// A submission's address field with [`feature::AUTO_BUFFERS`]: the place of the next request's
/// memory. When it cannot be put there the request comes all the same, marked.
#[must_use]
pub const fn auto_buffer(place: u16) -> u64 {
    const FALLBACK: u64 = 1 << 16;
    place as u64 | FALLBACK
}

/// Where the memory of a tag's request begins in the device's file, with [`feature::USER_COPY`].
#[must_use]
pub const fn copy_position(queue: u16, tag: u16) -> u64 {
    (1 << 31) + ((queue as u64) << 41) + ((tag as u64) << 25)
}

fn put<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// `struct ublksrv_ctrl_cmd`: what a control command carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CtrlCmd {
    /// Which device; all ones: any.
    pub dev_id: u32,
    /// Length of the buffer.
    pub len: u16,
    /// Address of the buffer.
    pub addr: u64,
    /// A number of the command's own.
    pub data: u64,
}

impl CtrlCmd {
    /// Bytes of the structure.
    pub const BYTES: usize = 32;

    /// As the 80 bytes of a long submission.
    #[must_use]
    pub fn encode(self) -> [u8; 80] {
        let mut out = [0; 80];
        put(&mut out, 0, self.dev_id.to_ne_bytes());
        put(&mut out, 4, u16::MAX.to_ne_bytes());
        put(&mut out, 6, self.len.to_ne_bytes());
        put(&mut out, 8, self.addr.to_ne_bytes());
        put(&mut out, 16, self.data.to_ne_bytes());
        out
    }
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DevInfo {
    /// Queues; the driver lowers it to the number of processors.
    pub queues: u16,
    /// Requests of a queue.
    pub depth: u16,
    /// See [`state`].
    pub state: u16,
    /// Longest transfer.
    pub max_io: u32,
    /// Its number.
    pub dev_id: u32,
    /// The server's process.
    pub pid: i32,
    /// See [`feature`].
    pub flags: u64,
    /// The server's own word.
    pub server: u64,
}

impl DevInfo {
    /// Bytes of the structure.
    pub const BYTES: usize = 64;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        put(&mut out, 0, self.queues.to_ne_bytes());
        put(&mut out, 2, self.depth.to_ne_bytes());
        put(&mut out, 4, self.state.to_ne_bytes());
        put(&mut out, 8, self.max_io.to_ne_bytes());
        put(&mut out, 12, self.dev_id.to_ne_bytes());
        put(&mut out, 16, self.pid.to_ne_bytes());
        put(&mut out, 24, self.flags.to_ne_bytes());
        put(&mut out, 32, self.server.to_ne_bytes());
        out
    }

    /// From bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            queues: u16::from_ne_bytes(get(bytes, 0)),
            depth: u16::from_ne_bytes(get(bytes, 2)),
            state: u16::from_ne_bytes(get(bytes, 4)),
            max_io: u32::from_ne_bytes(get(bytes, 8)),
            dev_id: u32::from_ne_bytes(get(bytes, 12)),
            pid: i32::from_ne_bytes(get(bytes, 16)),
            flags: u64::from_ne_bytes(get(bytes, 24)),
            server: u64::from_ne_bytes(get(bytes, 32)),
        }
    }
}

/// `struct ublk_params`: its basic and discard parts, and the alignment of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// No write is let through.
    pub read_only: bool,
    /// Logical block, as a power of two.
    pub logical_shift: u8,
    /// Physical block, as a power of two.
    pub physical_shift: u8,
    /// Preferred transfer, as a power of two.
    pub optimal_shift: u8,
    /// Longest transfer in sectors of 512 bytes.
    pub max_sectors: u32,
    /// Size in sectors.
    pub sectors: u64,
    /// Unit of a discard in bytes.
    pub discard_granularity: u32,
    /// Longest discard and zeroing in sectors.
    pub max_zero_sectors: u32,
    /// Alignment of memory in bytes; the disk below gets it as it comes.
    pub memory_align: Option<u32>,
}

impl Params {
    /// Bytes of the structure up to the alignment of memory.
    pub const BYTES: usize = 116;
    const READ_ONLY: u32 = 1;
    const VOLATILE_CACHE: u32 = 1 << 2;
    const FUA: u32 = 1 << 3;
    const BASIC: u32 = 1;
    const DISCARD: u32 = 2;
    const DMA_ALIGN: u32 = 1 << 4;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let discard = if self.read_only { 0 } else { Self::DISCARD };
        let align = if self.memory_align.is_some() { Self::DMA_ALIGN } else { 0 };
        let types = Self::BASIC | discard | align;
        let read_only = if self.read_only { Self::READ_ONLY } else { 0 };
        put(&mut out, 0, (Self::BYTES as u32).to_ne_bytes());
        put(&mut out, 4, types.to_ne_bytes());
        let attributes = read_only | Self::VOLATILE_CACHE | Self::FUA;
        put(&mut out, 8, attributes.to_ne_bytes());
        let shifts =
            [self.logical_shift, self.physical_shift, self.optimal_shift, self.physical_shift];
        put(&mut out, 12, shifts);
        put(&mut out, 16, self.max_sectors.to_ne_bytes());
        put(&mut out, 24, self.sectors.to_ne_bytes());
        if !self.read_only {
            put(&mut out, 44, self.discard_granularity.to_ne_bytes());
            put(&mut out, 48, self.max_zero_sectors.to_ne_bytes());
            put(&mut out, 52, self.max_zero_sectors.to_ne_bytes());
            put(&mut out, 56, 1u16.to_ne_bytes());
        }
        if let Some(bytes) = self.memory_align {
            put(&mut out, 108, (bytes.max(1) - 1).to_ne_bytes());
        }
        out
    }
}

/// `struct ublksrv_io_cmd`: the 16 bytes of a command on a device's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoCmd {
    /// Which queue.
    pub queue: u16,
    /// Which request.
    pub tag: u16,
    /// How it ended: bytes, or a negative errno.
    pub result: i32,
    /// Where the data of the next request goes.
    pub addr: u64,
}

impl IoCmd {
    /// Bytes of the structure.
    pub const BYTES: usize = 16;

    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        put(&mut out, 0, self.queue.to_ne_bytes());
        put(&mut out, 2, self.tag.to_ne_bytes());
        put(&mut out, 4, self.result.to_ne_bytes());
        put(&mut out, 8, self.addr.to_ne_bytes());
        out
    }
}

/// `struct ublksrv_io_desc`: a request, in memory the driver writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoDesc {
    /// Low byte of the operation word.
    pub operation: u8,
    /// Durable before it ends.
    pub fua: bool,
    /// Zeroed blocks stay allocated.
    pub no_unmap: bool,
    /// The driver could not put its memory on the ring.
    pub unregistered: bool,
    /// Length in sectors.
    pub sectors: u32,
    /// First sector.
    pub start: u64,
}

impl IoDesc {
    const FUA: u32 = 1 << 13;
    const NO_UNMAP: u32 = 1 << 15;
    const NEED_REG_BUF: u32 = 1 << 17;

    /// From bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; IO_DESC_BYTES]) -> Self {
        let word = u32::from_ne_bytes(get(bytes, 0));
        Self {
            operation: (word & 0xff) as u8,
            fua: word & Self::FUA != 0,
            no_unmap: word & Self::NO_UNMAP != 0,
            unregistered: word & Self::NEED_REG_BUF != 0,
            sectors: u32::from_ne_bytes(get(bytes, 4)),
            start: u64::from_ne_bytes(get(bytes, 8)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel's own header computes them.
    #[test]
    fn numbers_of_commands() {
        let control = [
            (control::GET_DEV_INFO, 0x8020_7502),
            (control::ADD_DEV, 0xc020_7504),
            (control::START_DEV, 0xc020_7506),
            (control::END_USER_RECOVERY, 0xc020_7511),
            (control::GET_FEATURES, 0x8020_7513),
            (control::UPDATE_SIZE, 0xc020_7515),
            (io::FETCH, 0xc010_7520),
            (io::COMMIT_AND_FETCH, 0xc010_7521),
        ];
        assert!(control.iter().all(|(ours, theirs)| ours == theirs), "{control:x?}");
    }

    #[test]
    fn a_device_comes_back_as_it_went() {
        let info = DevInfo {
            queues: 1,
            depth: 2,
            state: 3,
            max_io: 4,
            dev_id: 5,
            pid: -6,
            flags: 7 << 40,
            server: 8 << 50,
        };
        assert_eq!(DevInfo::decode(&info.encode()), info);
        assert_eq!(info.encode()[24..32], (7u64 << 40).to_ne_bytes());
    }

    #[test]
    fn places_of_fields() {
        let cmd = CtrlCmd { dev_id: 9, len: 8, addr: 1 << 40, data: 7 }.encode();
        assert_eq!(cmd[..4], 9u32.to_ne_bytes());
        assert_eq!(cmd[4..8], [0xff, 0xff, 8, 0]);
        assert_eq!(cmd[16..24], 7u64.to_ne_bytes());
        assert!(cmd[24..].iter().all(|byte| *byte == 0));
        let io = IoCmd { queue: 1, tag: 2, result: -5, addr: 3 }.encode();
        assert_eq!(io[4..8], (-5i32).to_ne_bytes());
        let params = Params {
            read_only: true,
            logical_shift: 9,
            physical_shift: 12,
            optimal_shift: 20,
            max_sectors: 512,
            sectors: 1 << 33,
            discard_granularity: 1 << 20,
            max_zero_sectors: 77,
            memory_align: None,
        };
        let bytes = params.encode();
        assert_eq!(bytes[4..16], [1, 0, 0, 0, 0b1101, 0, 0, 0, 9, 12, 20, 12]);
        assert_eq!(bytes[24..32], (1u64 << 33).to_ne_bytes());
        assert!(bytes[40..].iter().all(|byte| *byte == 0), "no discard on a read-only disk");
        let bytes = Params { read_only: false, ..params }.encode();
        assert_eq!((bytes[4], bytes[8]), (3, 0b1100));
        assert_eq!(bytes[52..60], [77, 0, 0, 0, 1, 0, 0, 0]);
        let bytes = Params { memory_align: Some(512), ..params }.encode();
        assert_eq!((bytes[0], bytes[4], &bytes[108..112]), (116, 17, &[255, 1, 0, 0][..]));
    }

    #[test]
    fn memory_of_a_request() {
        assert_eq!(auto_buffer(0x1234), 0x1_1234);
        assert_eq!(copy_position(0, 0), 0x8000_0000);
        assert_eq!(copy_position(3, 5), 0x8000_0000 + (3 << 41) + (5 << 25));
    }

    #[test]
    fn requests_are_read() {
        let mut bytes = [0; IO_DESC_BYTES];
        bytes[..4].copy_from_slice(&(5u32 | 1 << 13 | 1 << 15).to_ne_bytes());
        bytes[4..8].copy_from_slice(&8u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&(1u64 << 35).to_ne_bytes());
        let wanted = IoDesc {
            operation: 5,
            fua: true,
            no_unmap: true,
            unregistered: false,
            sectors: 8,
            start: 1 << 35,
        };
        assert_eq!(IoDesc::decode(&bytes), wanted);
        bytes[2] |= 2;
        assert_eq!(IoDesc::decode(&bytes), IoDesc { unregistered: true, ..wanted });
    }
}
