//! A ublk device of a disk: opened before the queues run, with a front end on them, started after.

use super::session::MakeFront;
use super::spec::{Export, RingChoice, ServeSpec, UblkCopies};
use crate::{Code, Failure, Result};
use ploop_engine::{FrontEnd, Limits};
use ploop_image::Disk;
use ploop_io::Ident;
use ploop_ublk::{Copies, Error, Options, UblkDevice, UblkFront};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the device needs to know of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    identity: u64,
    recoverable: bool,
}

impl Traits {
    /// Of a disk that is open now.
    #[must_use]
    pub fn of(disk: &Disk) -> Self {
        // F2, I14: only with a record of changes is nothing lost that was answered.
        let recoverable = disk.read_only() || disk.spec().record.is_some();
        Self { identity: identity(disk), recoverable }
    }

    /// A word for the disk: the same whenever it is served.
    #[must_use]
    pub fn identity(self) -> u64 {
        self.identity
    }
}

/// A word for the disk that the device carries to the next server: of its directory and its name
/// there, for images come and go. A device for writing is not for one that only reads.
fn identity(disk: &Disk) -> u64 {
    let name = disk.descriptor().and_then(|path| Some((path.parent()?, path.file_name()?)));
    let home = name.and_then(|(home, name)| Some((std::fs::metadata(home).ok()?, name)));
    let (ident, name) = match home {
        Some((home, name)) => (Ident { dev: home.dev(), ino: home.ino() }, name.as_bytes()),
        None => (disk.ident(), &b""[..]),
    };
    word(ident, name, disk.read_only())
}

fn word(ident: Ident, name: &[u8], read_only: bool) -> u64 {
    let bytes = ident.dev.to_le_bytes().into_iter().chain(ident.ino.to_le_bytes());
    let bytes = bytes.chain([u8::from(read_only)]).chain(name.iter().copied());
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash =
        bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash | 1
}

/// Opens the device the spec asks for. `None`: it asks for none, or another way will do.
///
/// # Errors
/// It must be ublk, and that cannot be had.
pub fn open(spec: &ServeSpec, limits: Limits, traits: Traits) -> Result<Option<UblkDevice>> {
    let wish = spec.exports.iter().find_map(|export| match export {
        Export::Ublk { or_loop, copies } => Some((*or_loop, *copies)),
        _ => None,
    });
    let Some((or_loop, copies)) = wish else { return passed_by(spec, traits) };
    let result = if spec.ring == RingChoice::Threads {
        Err(Failure::parameter("ublk needs io_uring, and `--io-engine threads` was asked for"))
    } else {
        let options = Options {
            queues: spec.queues,
            identity: traits.identity,
            recoverable: traits.recoverable,
            copies: match copies {
                UblkCopies::Best => None,
                UblkCopies::Zero => Some(Copies::Zero),
                UblkCopies::User => Some(Copies::User),
                UblkCopies::Driver => Some(Copies::Driver),
            },
        };
        match UblkDevice::open(limits, options) {
            Ok(device) => return Ok(Some(device)),
            // A device that waits for the disk is an error: its user would be passed by.
            Err(error) if !error.is_absence() => return Err(error.into()),
            Err(error) => Err(Failure::from(error)),
        }
    };
    match result {
        Err(failure) if or_loop => {
            tracing::info!("{failure}; another kind of device is used instead");
            passed_by(spec, traits)
        }
        other => other.map_err(|failure| failure.hint(super::means::another_device())),
    }
}

/// No ublk: but a file system may be mounted on a device that waits for this disk, and nobody else
/// may write below it.
fn passed_by(spec: &ServeSpec, traits: Traits) -> Result<Option<UblkDevice>> {
    if spec.read_only {
        return Ok(None);
    }
    let Some(device) = ploop_ublk::waiting_for(traits.identity) else { return Ok(None) };
    Err(waits(&device, "ublk"))
}

/// A device waits for this disk, and something else was asked for.
pub fn waits(device: &Path, via: &str) -> Failure {
    let message = format!("{} has lost its server and waits for this disk", device.display());
    Failure::new(Code::DeviceBusy, message)
        .hint(format!("`ploop attach --via {via}` takes it over; `ploop detach` then ends it"))
}

/// Puts the device's front ends on the queues, beside those that are there.
///
/// # Errors
/// The device's file cannot be used, or there is no memory.
pub fn join(
    device: &mut UblkDevice,
    mut fronts: Vec<Vec<MakeFront>>,
    queues: usize,
) -> Result<Vec<Vec<MakeFront>>> {
    fronts.resize_with(queues.max(1), Vec::new);
    for (n, front) in device.fronts()?.into_iter().enumerate() {
        fronts[n % queues.max(1)].push(maker(front));
    }
    Ok(fronts)
}

fn maker(mut front: UblkFront) -> MakeFront {
    Box::new(move |waker| {
        front.set_waker(waker);
        Ok(Box::new(front) as Box<dyn FrontEnd>)
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::new(Code::Device, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_words_of_their_own_and_never_zero() {
        let of = |dev, ino| word(Ident { dev, ino }, b"a.xml", false);
        assert_ne!(of(1, 2), word(Ident { dev: 1, ino: 2 }, b"a.xml", true));
        assert_ne!(of(1, 2), of(2, 1));
        assert_ne!(of(1, 2), of(1, 4));
        assert_ne!(of(0, 0), 0);
    }
}
