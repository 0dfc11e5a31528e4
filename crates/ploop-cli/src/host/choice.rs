//! Which part of an attached disk is mounted.

use super::growing::{self, Content};
use super::node::Node;
use super::server;
use super::table::{Part, Table};
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result};
use std::path::Path;

/// The device to mount: that of partition `wanted`; else the disk without a partition table, its
/// only partition, or the first one with a file system. Says so when that is one of several.
///
/// # Errors
/// There is no such partition, or the table cannot be read.
pub fn to_mount(entry: &Entry, wanted: Option<u32>) -> Result<Node> {
    let (node, others) = choose(entry, wanted)?;
    if let Some(others) = others {
        tracing::warn!("{others}");
    }
    Ok(node)
}

/// The device that would be mounted unasked.
///
/// # Errors
/// As [`to_mount`].
pub fn unasked(entry: &Entry) -> Result<Node> {
    choose(entry, None).map(|(node, _)| node)
}

/// The device, and what to say of others. A partition that is asked for by its number is taken
/// whatever is in it: what blkid does not know may still be mounted.
fn choose(entry: &Entry, wanted: Option<u32>) -> Result<(Node, Option<String>)> {
    let usual = || Ok((Node::at(server::mountable(entry)?), None));
    let Some(device) = entry.device.as_deref().map(Path::new) else { return usual() };
    let whole = growing::content(device, None);
    let block = server::connect(entry)?.info()?.block_bytes;
    let table = match (Table::read(device, block, whole != Content::Unknown), wanted) {
        (Ok(table), _) => table,
        // As before there was a choice.
        (Err(failure), None) => {
            tracing::info!("{failure}");
            return usual();
        }
        (Err(failure), Some(_)) => return Err(failure),
    };
    let parts = table.parts();
    if wanted.is_none() && parts.len() < 2 {
        return match (parts.first(), &entry.partition) {
            (Some(part), None) => Ok((Node::of(device, Some(part))?, None)),
            _ => usual(),
        };
    }
    if parts.is_empty() {
        let message = format!("{} has no partitions", device.display());
        return Err(Failure::new(Code::Partition, message).hint("leave --partition out"));
    }
    if let Some(part) = parts.iter().find(|part| Some(part.number) == wanted) {
        return Ok((Node::of(device, Some(part))?, None));
    }
    let looked_at = |part: Part| {
        let content = growing::content(device, Some(&part));
        (part, content)
    };
    let parts: Vec<_> = parts.into_iter().map(looked_at).collect();
    let (part, others) = chosen(&parts, wanted)?;
    Ok((Node::of(device, Some(part))?, others))
}

fn chosen(parts: &[(Part, Content)], wanted: Option<u32>) -> Result<(&Part, Option<String>)> {
    if let Some(number) = wanted {
        let found = parts.iter().find(|(part, _)| part.number == number);
        return found.map(|(part, _)| (part, None)).ok_or_else(|| growing::none(number, parts));
    }
    let mountable: Vec<_> = parts.iter().filter(|(_, content)| content.is_file_system()).collect();
    let Some((first, _)) = mountable.first() else {
        let message = format!("no partition has a file system: {}", growing::told(parts.iter()));
        return Err(Failure::new(Code::Mount, message));
    };
    let others = (mountable.len() > 1).then(|| {
        let all = growing::told(mountable.iter().copied());
        format!("partition {} is mounted; --partition N says which of {all}", first.number)
    });
    Ok((first, others))
}

#[cfg(test)]
mod tests {
    use super::chosen;
    use crate::host::growing::{Content, Kind};
    use crate::host::table::Part;

    #[test]
    fn the_first_file_system_unless_asked() {
        let part = |number, content| (Part { number, start: 1 << 20, len: 1 << 20 }, content);
        let other = |word: &str| Content::Other(word.to_owned());
        let parts = [
            part(1, other("swap")),
            part(2, other("LVM2_member")),
            part(3, other("vfat")),
            part(5, Content::Grows(Kind::Ext)),
            part(6, Content::Unknown),
        ];
        let number = |wanted| chosen(&parts, wanted).map(|(part, _)| part.number);
        assert_eq!(number(None).unwrap(), 3);
        let (_, others) = chosen(&parts, None).unwrap();
        assert!(others.unwrap().ends_with("3 (1048576 bytes, vfat), 5 (1048576 bytes, ext4)"));
        assert_eq!(chosen(&parts[..3], None).unwrap().1, None);
        assert_eq!(number(Some(5)).unwrap(), 5);
        assert_eq!(number(Some(6)).unwrap(), 6, "blkid does not know everything");
        let refused = number(Some(4)).unwrap_err();
        assert!(refused.hint.unwrap().contains("5 (1048576 bytes, ext4)"));
        assert!(chosen(&parts[..2], None).unwrap_err().message.contains("1 (1048576 bytes, swap)"));
    }
}
