//! What is read of a btrfs before it is mounted or made larger.

use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Failure, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use uuid::Uuid;

/// Where the kernel tells of mounted ones.
const SYS: &str = "/sys/fs/btrfs";
/// The superblock.
const SUPER: u64 = 64 << 10;

/// The identity of a file system, and the number of one of its devices.
pub struct Member {
    /// Of all its devices.
    pub fsid: Uuid,
    /// Of this one.
    pub number: u64,
}

/// Reads the superblock.
///
/// # Errors
/// The device cannot be read, or holds no btrfs.
pub fn member(device: &str) -> Result<Member> {
    let mut block = [0; 4096];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut block, SUPER));
    read.or_fail(Code::System, format!("the superblock of {device}"))?;
    let field = |at: usize| block[at..at + 16].try_into().unwrap_or([0; 16]);
    if &block[0x40..0x48] != b"_BHRfS_M" {
        return Err(Failure::new(Code::System, format!("{device} has no btrfs on it")));
    }
    let number = block[0xc9..0xd1].try_into().unwrap_or([0; 8]);
    Ok(Member { fsid: Uuid::from_bytes(field(0x20)), number: u64::from_le_bytes(number) })
}

/// Refuses where the kernel would take one device for another: it knows a btrfs by its identity,
/// which a snapshot or a copy shares with its origin. Since Linux 6.7 it gives the second one a
/// temporary identity.
///
/// # Errors
/// Code 21.
pub fn may_be_mounted(device: &str) -> Result<()> {
    let Ok(Member { fsid, .. }) = member(device) else { return Ok(()) };
    refused(Path::new(SYS), fsid, device)
}

fn refused(sys: &Path, fsid: Uuid, device: &str) -> Result<()> {
    let devices = std::fs::read_dir(sys.join(fsid.to_string()).join("devices"));
    let Ok(devices) = devices else { return Ok(()) };
    let names: Vec<_> =
        devices.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let own = Path::new(device).canonicalize().unwrap_or_else(|_| device.into());
    let own = own.file_name().map(|name| name.to_string_lossy().into_owned());
    let mounted = own.is_some_and(|own| names.contains(&own));
    if mounted || names.is_empty() || sys.join("features/temp_fsid").exists() {
        return Ok(());
    }
    let message = format!(
        "the btrfs on {device} has the identity {fsid} of the one that is mounted from {}: this \
         kernel cannot tell them apart (Linux 6.7 can)",
        names.join(", ")
    );
    let hint = "unmount the other one first, or read this one in a virtual machine";
    Err(Failure::new(Code::Mount, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::refused;
    use uuid::Uuid;

    #[test]
    fn a_second_one_is_refused_where_the_kernel_would_mix_them_up() {
        let sys = tempfile::tempdir().unwrap();
        let fsid = Uuid::from_u128(7);
        assert!(refused(sys.path(), fsid, "/dev/loop8p1").is_ok(), "none is mounted");
        let devices = sys.path().join(fsid.to_string()).join("devices");
        std::fs::create_dir_all(devices.join("loop7p1")).unwrap();
        assert!(refused(sys.path(), fsid, "/dev/loop7p1").is_ok(), "it is this one");
        let failure = refused(sys.path(), fsid, "/dev/loop8p1").unwrap_err();
        assert!(failure.message.contains("loop7p1"), "{failure}");
        std::fs::create_dir_all(sys.path().join("features/temp_fsid")).unwrap();
        assert!(refused(sys.path(), fsid, "/dev/loop8p1").is_ok(), "a temporary identity");
    }
}
