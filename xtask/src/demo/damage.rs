//! Damage done on purpose, to a copy: the demo's checks are worth something only if they notice.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where the BAT begins in an image, and the header's count of its entries.
const BAT: u64 = 64;
const ENTRIES_AT: u64 = 32;
const BLOCK: usize = 4096;

/// Flips one bit of the first block in `image` that holds the beginning of `file`. Blocks of a
/// file system lie at multiples of their size in the image too.
pub fn flip_bit_of(file: &Path, image: &Path) -> Result<u64> {
    let mut wanted = [0; BLOCK];
    let short = || format!("{} is shorter than a block", file.display());
    File::open(file)?.read_exact_at(&mut wanted, 0).with_context(short)?;
    let image = File::options().read(true).write(true).open(image)?;
    let length = image.metadata()?.len();
    let mut piece = vec![0; 256 * BLOCK];
    let mut at = 0;
    while at < length {
        let size = piece.len().min((length - at) as usize);
        image.read_exact_at(&mut piece[..size], at)?;
        if let Some(nth) = piece[..size].chunks(BLOCK).position(|block| block == wanted) {
            let place = at + (nth * BLOCK) as u64 + 77;
            image.write_all_at(&[wanted[77] ^ 1], place)?;
            return Ok(place);
        }
        at += size as u64;
    }
    bail!("the image does not hold {}", file.display())
}

/// Lets the second used BAT entry name the cluster of the first. Both entry numbers.
pub fn duplicate_entry(image: &Path) -> Result<(u32, u32)> {
    let image = File::options().read(true).write(true).open(image)?;
    let mut word = [0; 4];
    image.read_exact_at(&mut word, ENTRIES_AT)?;
    let mut first = None;
    for slot in 0..u32::from_le_bytes(word) {
        let at = BAT + 4 * u64::from(slot);
        image.read_exact_at(&mut word, at)?;
        match first {
            _ if word == [0; 4] => {}
            None => first = Some((slot, word)),
            Some((used, cluster)) => {
                image.write_all_at(&cluster, at)?;
                return Ok((used, slot));
            }
        }
    }
    bail!("the image has fewer than two used entries")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_bit_of_the_right_block_is_flipped() {
        let dir = tempfile::tempdir().unwrap();
        let (file, image) = (dir.path().join("file"), dir.path().join("image"));
        fs::write(&file, [7; BLOCK + 1]).unwrap();
        let mut bytes = vec![1; 3 * BLOCK];
        bytes[BLOCK..2 * BLOCK].fill(7);
        fs::write(&image, &bytes).unwrap();
        assert_eq!(flip_bit_of(&file, &image).unwrap(), BLOCK as u64 + 77);
        bytes[BLOCK + 77] = 6;
        assert_eq!(fs::read(&image).unwrap(), bytes);
        assert!(flip_bit_of(&file, &image).is_err());
    }

    #[test]
    fn the_second_used_entry_repeats_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut bytes = vec![0; 64 + 4 * 5];
        bytes[32] = 5;
        (bytes[68], bytes[76]) = (3, 4);
        fs::write(&image, &bytes).unwrap();
        assert_eq!(duplicate_entry(&image).unwrap(), (1, 3));
        bytes[76] = 3;
        assert_eq!(fs::read(&image).unwrap(), bytes);
    }
}
