//! Making and checking file systems, with the options of spec/ploop-tools.md 3.1 that stock tools
//! accept.

use super::command::{last_words, output, program, run};
use crate::plan::{FsPlan, FsType};
use ploop_daemon::{Code, Failure, Result};

/// ext4 below this size cannot have a journal of 128 MiB.
const JOURNAL_FROM: u64 = 1 << 30;

/// Makes the file system on a device of `size` bytes that reads as zeros.
///
/// # Errors
/// Code 24.
pub fn mkfs(plan: &FsPlan, device: &str, size: u64) -> Result<()> {
    let block = plan.block_bytes;
    match plan.kind {
        FsType::Ext4 => {
            let lazy = u8::from(plan.lazy);
            // Nothing to discard on a new disk; resize: room to grow online to 16 TiB.
            let extended = format!("-Elazy_itable_init={lazy},nodiscard,resize={}", u32::MAX);
            let block = format!("-b{block}");
            let mut args = vec!["-q", "-F", "-j", &block, &extended];
            if size >= JOURNAL_FROM {
                args.push("-Jsize=128");
            }
            if let Some(label) = &plan.label {
                args.extend(["-L", label]);
            }
            args.push(device);
            run(program("mkfs.ext4", args), Code::Mkfs)?;
            let tune = ["-ouser_xattr,acl", "-c0", "-i0", "-eremount-ro", device];
            run(program("tune2fs", tune), Code::Mkfs)
        }
        FsType::Xfs => {
            let block = format!("size={block}");
            let mut args = vec!["-q", "-K", "-f", "-b", &block];
            if let Some(label) = &plan.label {
                args.extend(["-L", label]);
            }
            args.push(device);
            run(program("mkfs.xfs", args), Code::Mkfs)
        }
    }
}

/// The type of the file system on a device, as blkid sees it.
pub fn detect(device: &str) -> Option<String> {
    let args = ["-p", "-o", "value", "-s", "TYPE", device];
    let output = output(program("blkid", args), Code::System).ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Makes an ext4 file system that is not mounted smaller, and gives the space behind it back.
///
/// # Errors
/// Code 26: it has more in it than that.
pub fn shrink(device: &str, bytes: u64) -> Result<()> {
    fsck(device, Some("ext4"))?;
    let size = format!("{}K", bytes >> 10);
    run(program("resize2fs", [device, &size]), Code::ResizeFs)?;
    let offset = (bytes >> 10 << 10).to_string();
    run(program("blkdiscard", ["-o", &offset, device]), Code::ResizeFs)
}

/// Checks the file system and repairs what needs no answer (`fsck -p -f`).
///
/// # Errors
/// Code 41.
pub fn fsck(device: &str, fstype: Option<&str>) -> Result<()> {
    let found = fstype.map(str::to_owned).or_else(|| detect(device));
    match found.as_deref() {
        Some("ext4" | "ext3" | "ext2") => {
            let output = output(program("e2fsck", ["-p", "-f", device]), Code::Fsck)?;
            // 1: errors were corrected.
            if matches!(output.status.code(), Some(0 | 1)) {
                return Ok(());
            }
            let message = format!("e2fsck {device}: {}, {}", output.status, last_words(&output));
            Err(Failure::new(Code::Fsck, message).hint(format!("ploop attach, then fsck {device}")))
        }
        Some("xfs") => run(program("xfs_repair", [device]), Code::Fsck),
        Some(other) => {
            tracing::warn!("-F: no check is known for {other}");
            Ok(())
        }
        None => Err(Failure::new(Code::Fsck, format!("{device} has no known file system"))),
    }
}
