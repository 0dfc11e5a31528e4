//! The control file: long submissions on a ring of its own, one at a time, never on a queue's
//! thread (D8: starting a disk reads it, and that read waits for the queues).

use crate::abi::{CtrlCmd, DevInfo, Params, control, feature};
use crate::error::Error;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Where commands go.
const PATH: &str = "/dev/ublk-control";
/// Names any device.
const ANY: u32 = u32::MAX;

/// An open control file.
pub struct Control {
    file: OwnedFd,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    /// Opens it and sees that the driver has what is needed.
    ///
    /// # Errors
    /// No module, no permission, an old kernel, no ring.
    pub fn open() -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(PATH, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NODEV => Error::NoModule,
            _ => Error::NotPermitted,
        })?;
        let ring = IoUring::builder().build(4).map_err(Error::NoRing)?;
        let mut opened = Self { file, ring };
        let features = opened.features()?;
        if features & feature::CMD_IOCTL_ENCODE == 0 {
            return Err(Error::TooOld(features));
        }
        Ok(opened)
    }

    /// What the driver can do.
    pub fn features(&mut self) -> Result<u64, Error> {
        let mut word = [0; 8];
        match self.send("GET_FEATURES", control::GET_FEATURES, ANY, 0, &mut word) {
            Ok(()) => Ok(u64::from_ne_bytes(word)),
            // Not known to older drivers.
            Err(Error::Command { .. }) => Err(Error::TooOld(0)),
            Err(error) => Err(error),
        }
    }

    /// Makes a device; returns what the driver made of the wish.
    pub fn add(&mut self, info: DevInfo) -> Result<DevInfo, Error> {
        let mut bytes = info.encode();
        self.send("ADD_DEV", control::ADD_DEV, info.dev_id, 0, &mut bytes)?;
        Ok(DevInfo::decode(&bytes))
    }

    /// Describes a device.
    pub fn info(&mut self, device: u32) -> Result<DevInfo, Error> {
        let mut bytes = DevInfo::default().encode();
        self.send("GET_DEV_INFO", control::GET_DEV_INFO, device, 0, &mut bytes)?;
        Ok(DevInfo::decode(&bytes))
    }

    /// Says what the disk is like.
    pub fn set_params(&mut self, device: u32, params: Params) -> Result<(), Error> {
        self.send("SET_PARAMS", control::SET_PARAMS, device, 0, &mut params.encode())
    }

    /// Makes the disk; waits until every queue has fetched and partitions were looked for.
    pub fn start(&mut self, device: u32) -> Result<(), Error> {
        let pid = u64::from(std::process::id());
        self.send("START_DEV", control::START_DEV, device, pid, &mut [])
    }

    /// Changes the size of a disk that runs.
    pub fn update_size(&mut self, device: u32, sectors: u64) -> Result<(), Error> {
        self.send("UPDATE_SIZE", control::UPDATE_SIZE, device, sectors, &mut [])
    }

    /// Takes the disk away: what is cached above is written first, then every command ends.
    pub fn stop(&mut self, device: u32) -> Result<(), Error> {
        self.send("STOP_DEV", control::STOP_DEV, device, 0, &mut [])
    }

    /// Removes the device; nobody may have its file open.
    pub fn delete(&mut self, device: u32) -> Result<(), Error> {
        self.send("DEL_DEV", control::DEL_DEV, device, 0, &mut [])
    }

    /// Takes over a device that waits for a server.
    pub fn start_recovery(&mut self, device: u32) -> Result<(), Error> {
        let command = control::START_USER_RECOVERY;
        self.send("START_USER_RECOVERY", command, device, 0, &mut [])
    }

    /// Lets the disk go on; waits until every queue has fetched.
    pub fn end_recovery(&mut self, device: u32) -> Result<(), Error> {
        let pid = u64::from(std::process::id());
        self.send("END_USER_RECOVERY", control::END_USER_RECOVERY, device, pid, &mut [])
    }

    fn send(
        &mut self,
        name: &'static str,
        operation: u32,
        device: u32,
        data: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let device_named = if device == ANY { -1 } else { i64::from(device) };
        let failed = |source| Error::Command { command: name, device: device_named, source };
        let addr = if buffer.is_empty() { 0 } else { buffer.as_mut_ptr() as u64 };
        let len = u16::try_from(buffer.len()).unwrap_or(u16::MAX);
        let payload = CtrlCmd { dev_id: device, len, addr, data }.encode();
        let file = types::Fd(self.file.as_raw_fd());
        let entry = opcode::UringCmd80::new(file, operation).cmd(payload).build();
        // SAFETY: the buffer lives until this function returns, and it returns only after the
        // completion: `wait` goes on through interruptions and aborts when the ring breaks.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| failed(io::Error::other("the ring is full")))?;
        let result = self.wait();
        if result < 0 { Err(failed(io::Error::from_raw_os_error(-result))) } else { Ok(()) }
    }

    /// The result of the one command on the ring.
    fn wait(&mut self) -> i32 {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "the control ring is broken with a command on it");
                    // The driver may still write into memory the caller is about to free.
                    std::process::abort();
                }
            }
            if let Some(done) = self.ring.completion().next() {
                return done.result();
            }
        }
    }
}
