//! What is on a device that is to become larger or smaller: which partition, which file system,
//! decided before anything changes; then its own tool does it.

use super::btrfs;
use super::command::{self, output, program, run};
use super::table::Part;
use ploop_daemon::runtime::blkpg;
use ploop_daemon::{Code, Failure, Result};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

/// What can be made larger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// ext2, ext3 or ext4: mounted or not.
    Ext,
    /// While it is mounted.
    Xfs,
    /// While it is mounted.
    Btrfs,
    /// A physical volume.
    Lvm,
}

/// What was found in a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// This can grow.
    Grows(Kind),
    /// This cannot.
    Other(String),
    /// Nothing that blkid knows.
    Unknown,
}

impl Content {
    fn of(kind: Option<&str>) -> Self {
        match kind {
            Some("ext2" | "ext3" | "ext4") => Self::Grows(Kind::Ext),
            Some("xfs") => Self::Grows(Kind::Xfs),
            Some("btrfs") => Self::Grows(Kind::Btrfs),
            Some("LVM2_member") => Self::Grows(Kind::Lvm),
            Some(other) => Self::Other(other.to_owned()),
            None => Self::Unknown,
        }
    }

    /// Something that mount(8) takes.
    pub fn is_file_system(&self) -> bool {
        match self {
            Self::Grows(Kind::Ext | Kind::Xfs | Kind::Btrfs) => true,
            Self::Grows(Kind::Lvm) | Self::Unknown => false,
            Self::Other(word) => {
                let inner = ["swap", "crypto_LUKS", "BitLocker"].contains(&word.as_str());
                !inner && !word.ends_with("_member")
            }
        }
    }

    const fn word(&self) -> &str {
        match self {
            Self::Grows(Kind::Ext) => "ext4",
            Self::Grows(Kind::Xfs) => "xfs",
            Self::Grows(Kind::Btrfs) => "btrfs",
            Self::Grows(Kind::Lvm) => "an LVM physical volume",
            Self::Other(word) => word.as_str(),
            Self::Unknown => "no known file system",
        }
    }
}

impl Kind {
    /// Programs that are needed.
    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Ext => &["e2fsck", "resize2fs"],
            Self::Xfs => &["xfs_growfs"],
            Self::Btrfs => &["btrfs"],
            Self::Lvm => &["pvresize"],
        }
    }

    /// Whether it grows only while it is mounted.
    pub const fn needs_mount(self) -> bool {
        matches!(self, Self::Xfs | Self::Btrfs)
    }

    /// Makes it as large as its device; `at` is where it is mounted.
    ///
    /// # Errors
    /// Code 26.
    pub fn enlarge(self, device: &str, at: Option<&Path>) -> Result<()> {
        let place = at.unwrap_or(Path::new(device));
        match self {
            Self::Ext => run(program("resize2fs", [device]), Code::ResizeFs),
            Self::Xfs => run(program("xfs_growfs", [place]), Code::ResizeFs),
            Self::Btrfs => {
                let most = format!("{}:max", btrfs::member(device)?.number);
                let words = ["filesystem".as_ref(), "resize".as_ref(), most.as_ref(), place];
                run(program("btrfs", words), Code::ResizeFs)
            }
            Self::Lvm => run(program("pvresize", ["-q", "-y", device]), Code::ResizeFs),
        }
    }
}

/// What lies in a part of a device, whether the kernel knows that part or not; of the whole device
/// without one.
pub fn content(device: &Path, part: Option<&Part>) -> Content {
    // The kernel caches what is read of a partition's device and of the whole one apart: what was
    // written through one is looked for there, and else not in a cache.
    let known =
        part.filter(|part| blkpg::place(device, part.number) == Some((part.start, part.len)));
    let node = known.and_then(|part| blkpg::node(device, part.number).ok());
    if let (None, Ok(file)) = (&node, File::open(device)) {
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
    let mut words: Vec<OsString> = ["-p", "-o", "value", "-s", "TYPE"].map(OsString::from).into();
    if let (None, Some(part)) = (&node, part) {
        words.extend(["-O".into(), part.start.to_string().into()]);
        words.extend(["-S".into(), part.len.to_string().into()]);
    }
    words.push(node.as_deref().unwrap_or(device).into());
    let said = output(program("blkid", words), Code::System).ok();
    let text = said.and_then(|said| String::from_utf8(said.stdout).ok()).unwrap_or_default();
    Content::of(Some(text.trim()).filter(|text| !text.is_empty()))
}

/// The one partition that is meant, and what grows in it.
///
/// # Errors
/// There is none such, or it is not clear which: nothing was changed.
pub fn choose(parts: &[(Part, Content)], wanted: Option<u32>) -> Result<(&Part, Kind)> {
    let told = || told(parts.iter());
    let growing = || {
        let each = parts.iter().filter_map(|(part, content)| match content {
            Content::Grows(kind) => Some((part, *kind)),
            _ => None,
        });
        each.collect::<Vec<_>>()
    };
    if let Some(number) = wanted {
        let found = parts.iter().find(|(part, _)| part.number == number);
        return match found {
            Some((part, Content::Grows(kind))) => Ok((part, *kind)),
            Some((_, content)) => {
                let message = format!("partition {number} has {}", content.word());
                Err(Failure::new(Code::ResizeFs, format!("{message}: it cannot be resized")))
            }
            None => Err(none(number, parts)),
        };
    }
    match growing().as_slice() {
        [one] => Ok(*one),
        [] => {
            let message = format!("no partition has what can be resized: {}", told());
            Err(Failure::new(Code::ResizeFs, message)
                .hint("ploop grow makes the device larger, and nothing else"))
        }
        [..] => {
            let message = format!("which partition? There are {}", told());
            Err(Failure::new(Code::Partition, message).hint("--partition N says which"))
        }
    }
}

/// Partitions in words: number, size and content.
pub fn told<'a>(parts: impl Iterator<Item = &'a (Part, Content)>) -> String {
    let one = |(part, content): &(Part, Content)| {
        format!("{} ({} bytes, {})", part.number, part.len, content.word())
    };
    parts.map(one).collect::<Vec<_>>().join(", ")
}

/// There is no such partition.
pub fn none(number: u32, parts: &[(Part, Content)]) -> Failure {
    let message = format!("there is no partition {number}");
    Failure::new(Code::Partition, message).hint(format!("there are {}", told(parts.iter())))
}

/// Refuses a partition with another one behind it.
///
/// # Errors
/// As said.
pub fn is_last(parts: &[(Part, Content)], part: &Part) -> Result<()> {
    let behind = parts.iter().find(|(other, _)| other.start > part.start);
    let Some((other, _)) = behind else { return Ok(()) };
    let (number, behind) = (part.number, other.number);
    let message = format!("partition {number} has no room: partition {behind} lies behind it");
    let hint = "only the last partition becomes larger or smaller";
    Err(Failure::new(Code::Partition, message).hint(hint))
}

/// Whether the tools for it are installed.
///
/// # Errors
/// Code 26: one is not.
pub fn have_tools(kind: Kind) -> Result<()> {
    let missing = kind.programs().iter().find(|name| !command::installed(name));
    let Some(name) = missing else { return Ok(()) };
    let hint = format!("install {name}; it was looked for in {}", command::PATH);
    Err(Failure::new(Code::ResizeFs, format!("{name} is not installed")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::{Content, Kind, choose, is_last};
    use crate::host::table::Part;

    fn part(number: u32, start: u64, kind: Option<&str>) -> (Part, Content) {
        (Part { number, start, len: 1 << 20 }, Content::of(kind))
    }

    #[test]
    fn the_partition_with_a_file_system_is_meant() {
        // As in cloud images: the root is first by number and last by place.
        let cloud = [part(1, 9, Some("ext4")), part(14, 1, None), part(15, 5, Some("vfat"))];
        let (root, kind) = choose(&cloud, None).unwrap();
        assert_eq!((root.number, kind), (1, Kind::Ext));
        assert!(is_last(&cloud, root).is_ok());
        assert!(is_last(&cloud, &cloud[2].0).unwrap_err().message.contains("partition 1 lies"));
    }

    #[test]
    fn what_is_not_clear_is_refused_with_names() {
        let two = [part(1, 1, Some("ext4")), part(2, 2, Some("xfs")), part(3, 3, Some("swap"))];
        let refused = choose(&two, None).unwrap_err();
        assert!(refused.message.contains("1 (1048576 bytes, ext4), 2 (1048576 bytes, xfs)"));
        assert!(refused.hint.unwrap().contains("--partition"));
        assert_eq!(choose(&two, Some(2)).unwrap().1, Kind::Xfs);
        assert!(choose(&two, Some(3)).unwrap_err().message.contains("swap"));
        assert!(choose(&two, Some(4)).unwrap_err().hint.unwrap().contains("3 (1048576"));
        assert!(choose(&two[2..], None).unwrap_err().message.contains("3 (1048576 bytes, swap)"));
    }
}
