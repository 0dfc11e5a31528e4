//! A disk in pieces, as Parallels Desktop makes it, by a writer of its own; and what it holds, by a
//! reader that knows nothing of ours.

use crate::World;
use crate::stamps::Random;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A bundle to make.
#[derive(Debug, Clone, Copy)]
pub struct Bundle {
    /// Version of the images: 1 or 2.
    pub version: u32,
    /// Sectors of a cluster.
    pub cluster: u64,
    /// Sectors of every piece but the last.
    pub piece: u64,
    /// Sectors of the disk.
    pub size: u64,
    /// Images in each piece's chain.
    pub levels: usize,
}

/// The reader, in Python.
const READER: &str = include_str!("split_reader.py");
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";

impl Bundle {
    /// First sectors of the pieces, and the end of the disk.
    #[must_use]
    pub fn bounds(&self) -> Vec<u64> {
        let starts = (0..self.size.div_ceil(self.piece)).map(|n| n * self.piece);
        starts.chain([self.size]).collect()
    }

    /// The name of a level: the top has its well-known one.
    fn guid(&self, level: usize) -> String {
        match level + 1 == self.levels {
            true => TOP.to_owned(),
            false => format!("{{{level:08x}-1111-4222-8333-444455556666}}"),
        }
    }

    /// Writes the bundle, with random clusters in every level, and returns what a guest reads.
    ///
    /// # Panics
    /// The directory cannot be written.
    #[allow(clippy::unwrap_used, reason = "a helper of tests")]
    pub fn make(&self, home: &Path, random: &mut Random) -> Vec<u8> {
        fs::create_dir(home).unwrap();
        let mut flat = vec![0; usize::try_from(self.size * 512).unwrap()];
        for (n, bounds) in self.bounds().windows(2).enumerate() {
            let part = usize::try_from(bounds[0] * 512).unwrap()
                ..usize::try_from(bounds[1] * 512).unwrap();
            for level in 0..self.levels {
                let file = self.image(&mut flat[part.clone()], random);
                fs::write(home.join(self.file(n, level)), file).unwrap();
            }
        }
        fs::write(home.join("DiskDescriptor.xml"), self.descriptor()).unwrap();
        flat
    }

    fn file(&self, piece: usize, level: usize) -> String {
        format!("disk.hdd.{piece}.{}.hds", self.guid(level))
    }

    /// One image over `flat`, its part of the disk, which gets what it holds.
    #[allow(clippy::unwrap_used, reason = "a helper of tests")]
    fn image(&self, flat: &mut [u8], random: &mut Random) -> Vec<u8> {
        let cluster = usize::try_from(self.cluster * 512).unwrap();
        let entries = flat.len().div_ceil(cluster);
        let data = (64 + entries * 4).next_multiple_of(cluster);
        let mut file = vec![0; data];
        let magic = [b"WithoutFreeSpace", b"WithouFreSpacExt"][self.version as usize - 1];
        file[..16].copy_from_slice(magic);
        let mut put = |at: usize, word: u64| {
            file[at..at + 4].copy_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
        };
        put(16, 2);
        put(20, 16);
        put(24, flat.len() as u64 / 512 / 16 / 63);
        put(28, self.cluster);
        put(32, entries as u64);
        put(36, flat.len() as u64 / 512);
        put(48, data as u64 / 512);
        for (n, part) in flat.chunks_mut(cluster).enumerate() {
            if random.below(4) > 0 {
                continue;
            }
            let at = file.len();
            let mut bytes = vec![0; cluster];
            for word in bytes.chunks_mut(8) {
                word.copy_from_slice(&random.below(1 << 60).to_le_bytes());
            }
            part.copy_from_slice(&bytes[..part.len()]);
            let entry = if self.version == 1 { at / 512 } else { at / cluster };
            file[64 + n * 4..68 + n * 4].copy_from_slice(&(entry as u32).to_le_bytes());
            file.extend(bytes);
        }
        file
    }

    /// The descriptor, in the product's manner.
    fn descriptor(&self) -> String {
        let mut text = format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n\
             <Disk_Parameters><Disk_size>{}</Disk_size><Cylinders>{}</Cylinders>\
             <PhysicalSectorSize>4096</PhysicalSectorSize><LogicSectorSize>512</LogicSectorSize>\
             <Heads>16</Heads><Sectors>63</Sectors><Padding>0</Padding></Disk_Parameters>\n\
             <StorageData>\n",
            self.size,
            self.size / 16 / 63
        );
        for (n, bounds) in self.bounds().windows(2).enumerate() {
            let (start, end) = (bounds[0], bounds[1]);
            let _ = write!(
                text,
                "<Storage><Start>{start}</Start><End>{end}</End><Blocksize>{}</Blocksize>",
                self.cluster
            );
            for level in (0..self.levels).rev() {
                let (guid, file) = (self.guid(level), self.file(n, level));
                let _ = write!(
                    text,
                    "<Image><GUID>{guid}</GUID><Type>Compressed</Type><File>{file}</File></Image>"
                );
            }
            text.push_str("</Storage>\n");
        }
        let _ = write!(text, "</StorageData>\n<Snapshots><TopGUID>{TOP}</TopGUID>");
        for level in 0..self.levels {
            let parent = level.checked_sub(1).map_or(NONE.to_owned(), |below| self.guid(below));
            let _ = write!(
                text,
                "<Shot><GUID>{}</GUID><ParentGUID>{parent}</ParentGUID></Shot>",
                self.guid(level)
            );
        }
        text.push_str("</Snapshots>\n</Parallels_disk_image>\n");
        text
    }
}

/// The SHA-256 of a bundle's content as the reader in Python sees it.
pub fn digest(world: &World, bundle: &str) -> String {
    world.ok("python3", &["-c", READER, bundle]).trim().to_owned()
}

/// The SHA-256 of bytes, by a program.
///
/// # Panics
/// A file cannot be written.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
pub fn digest_of(world: &World, bytes: &[u8]) -> String {
    let file = world.text("flat");
    fs::write(&file, bytes).unwrap();
    world.ok("sha256sum", &[&file]).split_whitespace().next().unwrap_or("").to_owned()
}
