//! A disk that is split into pieces: several `Storage` elements, each with a chain of its own over
//! its range of sectors. The snapshots are those of all pieces.

use super::Result;
use super::error::DescriptorError;
use super::model::{Descriptor, ImageRef};
use crate::guid::Guid;
use crate::units::ClusterSize;
use std::collections::HashSet;

impl Descriptor {
    /// In how many pieces the disk is split: 1 for any other.
    #[must_use]
    pub const fn pieces(&self) -> usize {
        self.more.len() + 1
    }

    /// First sector of each piece, and the end of the last one.
    #[must_use]
    pub fn bounds(&self) -> Vec<u64> {
        let starts = self.more.iter().map(|piece| piece.start);
        [0].into_iter().chain(starts).chain([self.size_sectors]).collect()
    }

    /// The images of piece `n`; none when there is no such piece.
    #[must_use]
    pub fn piece_images(&self, n: usize) -> &[ImageRef] {
        match n.checked_sub(1) {
            None => &self.images,
            Some(n) => self.more.get(n).map_or(&[], |piece| &piece.images),
        }
    }

    /// All image files of all pieces.
    pub fn all_images(&self) -> impl Iterator<Item = &ImageRef> {
        (0..self.pieces()).flat_map(|n| self.piece_images(n))
    }

    /// Piece `n` as a disk of its own: to read and to change, not to be written. The whole disk
    /// when it is not split.
    #[must_use]
    pub fn piece(&self, n: usize) -> Self {
        if self.more.is_empty() {
            return self.clone();
        }
        let bounds = self.bounds();
        let size = bounds.get(n + 1).zip(bounds.get(n)).map_or(0, |(end, start)| end - start);
        let mut piece = self.clone();
        piece.images = self.piece_images(n).to_vec();
        piece.more = Vec::new();
        piece.size_sectors = size;
        piece.part = true;
        piece
    }

    /// Makes one change of the snapshots in every piece: `change` gets each piece as a disk of its
    /// own, with its number. Nothing is changed when it fails for one.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn in_pieces<T>(
        &mut self,
        mut change: impl FnMut(&mut Self, usize) -> Result<T>,
    ) -> Result<Vec<T>> {
        if self.more.is_empty() {
            let mut whole = self.clone();
            let done = change(&mut whole, 0)?;
            *self = whole;
            return Ok(vec![done]);
        }
        let mut whole = self.clone();
        let mut done = Vec::with_capacity(self.pieces());
        for n in 0..self.pieces() {
            let mut piece = self.piece(n);
            done.push(change(&mut piece, n)?);
            match n.checked_sub(1) {
                None => whole.images = piece.images,
                Some(n) => whole.more[n].images = piece.images,
            }
            (whole.shots, whole.top) = (piece.shots, piece.top);
        }
        *self = whole;
        Ok(done)
    }

    /// The disk in one piece: `files` are its images, in the order of those of the first piece.
    /// What the first piece says of itself stays.
    ///
    /// # Errors
    /// There are not as many files as images, or a rule of [`Descriptor::check`] is broken.
    pub fn in_one_piece(&self, files: &[String]) -> Result<Self> {
        let (images, given) = (self.images.len(), files.len());
        if images != given {
            return Err(DescriptorError::Count { images: given, shots: images });
        }
        let mut whole = self.clone();
        for (image, file) in whole.images.iter_mut().zip(files) {
            image.file.clone_from(file);
        }
        // The new images are made as they are needed.
        (whole.more, whole.preallocated) = (Vec::new(), false);
        if let Some(data) = whole.document.root.get_mut("StorageData") {
            let first = data.get("Storage").cloned().into_iter().collect();
            data.replace_all("Storage", first);
        }
        whole.check()?;
        Ok(whole)
    }

    /// The paths of new deltas, one for each piece: see [`Descriptor::delta_file`].
    #[must_use]
    pub fn delta_files(&self, unique: Guid) -> Vec<String> {
        let mut files: Vec<String> = Vec::with_capacity(self.pieces());
        for n in 0..self.pieces() {
            let file = self.piece(n).delta_file(unique);
            match files.contains(&file) {
                true => files.push(file.replace(&format!(".{unique}"), &format!(".{n}.{unique}"))),
                false => files.push(file),
            }
        }
        files
    }

    /// The rules of pieces: contiguous, of whole clusters but for the last one's end, with an image
    /// for each snapshot in each of them.
    pub(super) fn check_pieces(&self) -> Result<()> {
        let bounds = self.bounds();
        for (n, pair) in bounds.windows(2).enumerate().filter(|_| !self.more.is_empty()) {
            let (start, end) = (pair[0], pair[1]);
            if end <= start {
                return Err(DescriptorError::PieceEmpty { piece: n, start, end });
            }
            whole(n, start, self.cluster)?;
        }
        let first: HashSet<Guid> = self.images.iter().map(|image| image.guid).collect();
        for (n, piece) in self.more.iter().enumerate() {
            let own: HashSet<Guid> = piece.images.iter().map(|image| image.guid).collect();
            let missing = |of: &HashSet<Guid>, piece| match of.iter().min() {
                Some(guid) => Err(DescriptorError::PieceImage { piece, guid: *guid }),
                None => Ok(()),
            };
            missing(&first.difference(&own).copied().collect(), n + 1)?;
            missing(&own.difference(&first).copied().collect(), 0)?;
        }
        Ok(())
    }
}

pub(super) fn whole(piece: usize, start: u64, cluster: ClusterSize) -> Result<()> {
    let cluster = cluster.sectors();
    match start.is_multiple_of(cluster.into()) {
        true => Ok(()),
        false => Err(DescriptorError::PieceAlign { piece, start, cluster }),
    }
}
