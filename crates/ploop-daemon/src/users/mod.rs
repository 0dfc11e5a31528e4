//! Who uses a block device: whoever has it or a partition of it open, in whatever way.
//!
//! The kernel says "in use" only to those who ask for a device alone (`O_EXCL`): mounts, swap,
//! device-mapper. A loop device over it, a virtual machine or any other process that has it open
//! would lose what it has not written yet, so they are looked for: in sysfs, in the mounts of all
//! namespaces, and by the device's number among what processes have open.
//!
//! | part | what |
//! |---|---|
//! | `target` | a device with its partitions, by name and number |
//! | `find` | those who use it |
//!
//! Nothing here waits for a file system: attributes are taken as the kernel has them.

mod find;
mod target;

use std::fmt;
use std::path::{Path, PathBuf};
use target::Target;

/// So many are named.
const NAMED: usize = 5;

/// Somebody who uses a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum User {
    /// A mount, perhaps in the namespace of some process.
    Mount {
        /// What is mounted.
        device: String,
        /// Where.
        at: PathBuf,
        /// Name and number of a process that sees it, when this one does not.
        seen_by: Option<(String, u32)>,
    },
    /// Swap space.
    Swap(String),
    /// A device made of it: of device-mapper, a RAID, a loop device.
    Above {
        /// `dm-3`, `md0`, `loop7`.
        name: String,
        /// What it is called by others.
        alias: Option<String>,
        /// Where that is mounted.
        mounted: Option<PathBuf>,
    },
    /// A process that has it open.
    Process {
        /// Its name.
        name: String,
        /// Its number.
        pid: u32,
        /// What it has open.
        path: PathBuf,
    },
}

impl User {
    /// It does not go by itself in a moment, as a program that only looks at new devices does.
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self, Self::Mount { .. } | Self::Swap(_))
    }

    /// What to do so that it lets go.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Mount { at, seen_by: None, .. } => format!("umount {}", at.display()),
            Self::Mount { at, seen_by: Some((_, pid)), .. } => {
                format!("nsenter -t {pid} -m umount {}", at.display())
            }
            Self::Swap(device) => format!("swapoff {device}"),
            Self::Above { mounted: Some(at), .. } => {
                format!("umount {}, then take that device apart", at.display())
            }
            Self::Above { name, .. } if name.starts_with("loop") => {
                format!("losetup -d /dev/{name}")
            }
            Self::Above { name, alias, .. } if name.starts_with("dm-") => {
                format!("dmsetup remove {}", alias.as_deref().unwrap_or(name))
            }
            Self::Above { name, .. } => format!("stop /dev/{name} first"),
            Self::Process { pid, path, .. } => {
                format!("it has to let go of {}, or: kill {pid}", path.display())
            }
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { device, at, seen_by: None } => {
                write!(f, "{device} is mounted on {}", at.display())
            }
            Self::Mount { device, at, seen_by: Some((name, pid)) } => {
                let at = at.display();
                write!(f, "{device} is mounted on {at} in the mount namespace of {name}, pid {pid}")
            }
            Self::Swap(device) => write!(f, "{device} is swap space"),
            Self::Above { name, alias, mounted } => {
                write!(f, "/dev/{name} lies on it")?;
                if let Some(alias) = alias {
                    write!(f, " ({alias})")?;
                }
                match mounted {
                    Some(at) => write!(f, " and is mounted on {}", at.display()),
                    None => Ok(()),
                }
            }
            Self::Process { name, pid, path } => {
                write!(f, "{name}, pid {pid}, uses {}", path.display())
            }
        }
    }
}

/// Who uses a block device or a partition of it, this process left out; as far as this process may
/// know.
#[must_use]
pub fn of_device(device: &Path) -> Vec<User> {
    let Some(target) = Target::of(device) else { return Vec::new() };
    let mut users = find::mounts(&target);
    users.extend(find::swaps(&target));
    users.extend(find::above(&target));
    users.extend(find::processes(&target));
    users
}

/// The processes that use the file system mounted on a directory: by an open file, their
/// directory, their root or their program.
#[must_use]
pub fn of_mount(at: &Path) -> Vec<User> {
    find::in_file_system(at)
}

/// Users in words, the first few of them.
#[must_use]
pub fn told(users: &[User]) -> String {
    let mut words: Vec<String> = users.iter().take(NAMED).map(User::to_string).collect();
    if users.len() > NAMED {
        words.push(format!("and {} more", users.len() - NAMED));
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::{User, told};

    #[test]
    fn a_few_are_named_and_the_rest_counted() {
        let swap = User::Swap("/dev/loop4".to_owned());
        assert_eq!(told(std::slice::from_ref(&swap)), "/dev/loop4 is swap space");
        assert!(told(&vec![swap; 7]).ends_with("; and 2 more"));
    }
}
