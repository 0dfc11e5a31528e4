//! Which images lie under which: a tree whose nodes are all there, each once.

use super::Result;
use super::error::DescriptorError;
use super::model::{Descriptor, ImageRef, ImageType, Shot, Temporary};
use super::xml::is_xml;
use crate::guid::Guid;
use std::collections::{HashMap, HashSet};

impl Descriptor {
    /// The images of the disk as it is now, base first.
    ///
    /// # Errors
    /// The chain has a hole or a cycle.
    pub fn chain(&self) -> Result<Vec<ImageRef>> {
        self.chain_of(self.top)
    }

    /// The images under a snapshot, base first, its own last.
    ///
    /// # Errors
    /// There is no such snapshot, or the chain has a hole or a cycle.
    pub fn chain_of(&self, guid: Guid) -> Result<Vec<ImageRef>> {
        let shots: HashMap<Guid, &Shot> = self.shots.iter().map(|s| (s.guid, s)).collect();
        let images: HashMap<Guid, &ImageRef> = self.images.iter().map(|i| (i.guid, i)).collect();
        let mut shot = *shots.get(&guid).ok_or(DescriptorError::NoShot(guid))?;
        let mut chain = Vec::new();
        loop {
            let image = images.get(&shot.guid).ok_or(DescriptorError::NoImage(shot.guid))?;
            chain.push((*image).clone());
            if chain.len() > self.shots.len() {
                return Err(DescriptorError::Cycle(guid));
            }
            if shot.parent == Guid::NONE {
                chain.reverse();
                return Ok(chain);
            }
            let missing = DescriptorError::NoParent { child: shot.guid, parent: shot.parent };
            shot = *shots.get(&shot.parent).ok_or(missing)?;
        }
    }

    /// The snapshots under the top of a chain that was turned ([`Descriptor::turn`]), the highest
    /// first: the top takes in what they have, then they go. Empty when it was not.
    ///
    /// # Errors
    /// The chain is broken.
    pub fn turned(&self) -> Result<Vec<Guid>> {
        let chain = self.chain()?;
        let mut found = Vec::new();
        for image in chain.iter().rev().skip(1) {
            let shot = self.shot(image.guid).ok_or(DescriptorError::NoShot(image.guid))?;
            match shot.temporary {
                Temporary::Yes => found.push(image.guid),
                Temporary::ZeroSwap => {
                    found.push(image.guid);
                    return Ok(found);
                }
                Temporary::No | Temporary::Zero => break,
            }
        }
        Ok(Vec::new())
    }

    /// The rules a descriptor keeps, checked when it is read and before it is written.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn check(&self) -> Result<()> {
        self.check_images()?;
        self.check_pieces()?;
        self.check_shots()?;
        let top = self.shot(self.top).ok_or(DescriptorError::NoShot(self.top))?;
        if top.temporary != Temporary::No {
            return Err(DescriptorError::TemporaryTop(self.top));
        }
        if self.preallocated && self.all_images().any(|i| i.kind == ImageType::Plain) {
            return Err(DescriptorError::PreallocatedPlain);
        }
        Ok(())
    }

    fn check_images(&self) -> Result<()> {
        let (images, shots) = (self.images.len(), self.shots.len());
        if images == 0 {
            return Err(DescriptorError::Missing("Image"));
        }
        if images != shots {
            return Err(DescriptorError::Count { images, shots });
        }
        let mut files = HashSet::new();
        for n in 0..self.pieces() {
            let mut guids = HashSet::new();
            for image in self.piece_images(n) {
                check_file(&image.file)?;
                if !guids.insert(image.guid) {
                    return Err(DescriptorError::Duplicate(image.guid));
                }
                if !files.insert(image.file.as_str()) {
                    return Err(DescriptorError::DuplicateFile(image.file.clone()));
                }
            }
        }
        Ok(())
    }

    fn check_shots(&self) -> Result<()> {
        let images: HashSet<Guid> = self.images.iter().map(|image| image.guid).collect();
        let mut parents = HashMap::new();
        let mut base = None;
        for shot in &self.shots {
            if shot.guid == Guid::NONE {
                return Err(DescriptorError::Reserved(shot.guid));
            }
            if parents.insert(shot.guid, shot.parent).is_some() {
                return Err(DescriptorError::Duplicate(shot.guid));
            }
            if !images.contains(&shot.guid) {
                return Err(DescriptorError::NoImage(shot.guid));
            }
            if shot.parent == Guid::NONE
                && let Some(first) = base.replace(shot.guid)
            {
                return Err(DescriptorError::TwoBases { first, second: shot.guid });
            }
        }
        check_tree(&self.shots, &parents)
    }
}

/// Every shot reaches the base. Linear: what was once found to reach it is not walked again.
fn check_tree(shots: &[Shot], parents: &HashMap<Guid, Guid>) -> Result<()> {
    let mut good = HashSet::from([Guid::NONE]);
    for shot in shots {
        let mut path = Vec::new();
        let mut on_path = HashSet::new();
        let mut at = shot.guid;
        while !good.contains(&at) {
            if !on_path.insert(at) {
                return Err(DescriptorError::Cycle(at));
            }
            path.push(at);
            let parent = *parents.get(&at).ok_or(DescriptorError::NoShot(at))?;
            if parent != Guid::NONE && !parents.contains_key(&parent) {
                return Err(DescriptorError::NoParent { child: at, parent });
            }
            at = parent;
        }
        good.extend(path);
    }
    Ok(())
}

/// A name that comes back the same when the descriptor is read.
pub(super) fn check_file(file: &str) -> Result<()> {
    let edges = file.trim_matches([' ', '\t', '\r', '\n']);
    if file.is_empty() || edges != file || !file.chars().all(is_xml) {
        return Err(DescriptorError::FileName(file.chars().take(64).collect()));
    }
    Ok(())
}
