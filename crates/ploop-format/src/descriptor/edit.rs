//! Changes of a disk: made, snapshot, removed, merged, grown. Nothing is written here.

use super::Result;
use super::chain::check_file;
use super::error::DescriptorError;
use super::model::{Descriptor, ImageRef, ImageType, Shot, Temporary};
use super::tree::{Document, Element};
use crate::geometry;
use crate::guid::Guid;
use crate::units::{ClusterSize, Sector};

impl Descriptor {
    /// The descriptor of a new disk with one image.
    ///
    /// # Errors
    /// No size, a raw preallocated disk, or a file name that cannot be written.
    pub fn new(
        size: Sector,
        cluster: ClusterSize,
        kind: ImageType,
        preallocated: bool,
        file: &str,
    ) -> Result<Self> {
        if size.0 == 0 {
            return Err(crate::FormatError::ZeroSize.into());
        }
        let root = Element::new("Virtuozzo_disk_image");
        let mut new = Self {
            size_sectors: 0,
            cylinders: 0,
            heads: 0,
            sectors: 0,
            cluster,
            preallocated,
            max_delta_size: None,
            key_id: None,
            engine: None,
            volume: None,
            images: vec![ImageRef::new(Guid::TOP, kind, file)],
            shots: vec![Shot::new(Guid::TOP, Guid::NONE)],
            top: Guid::TOP,
            more: Vec::new(),
            document: Document { root, ..Document::default() },
            part: false,
        };
        new.set_size(size);
        new.check()?;
        Ok(new)
    }

    /// Another size, with the CHS that belongs to it.
    pub fn set_size(&mut self, size: Sector) {
        let chs = geometry::chs(size);
        self.size_sectors = size.0;
        self.cylinders = chs.cylinders.into();
        self.heads = chs.heads.into();
        // The original divides back, so that the three may not multiply to the size.
        let per_sector = self.cylinders * self.heads;
        self.sectors = size.0.checked_div(per_sector).unwrap_or(0);
    }

    /// The path of a new delta: that of the first image without its own `.{...}`, and a fresh name.
    #[must_use]
    pub fn delta_file(&self, unique: Guid) -> String {
        let first = self.images.first().map_or("root.hds", |image| image.file.as_str());
        let stem = match first.rfind(".{") {
            Some(at) if first.ends_with('}') && !first[at..].contains('/') && at > 0 => {
                &first[..at]
            }
            // The images of a split disk keep their ending: name.N.{...}.hds
            Some(at) if self.part && first.ends_with("}.hds") && !first[at..].contains('/') => {
                return format!("{}.{unique}.hds", &first[..at]);
            }
            _ => first,
        };
        format!("{stem}.{unique}")
    }

    /// Freezes the top under the name `snapshot` and puts the new delta `file` on it. The old top
    /// takes the snapshot's name, so that its children and its parent stay as they are.
    ///
    /// # Errors
    /// The name is taken or reserved, or the file is there already.
    pub fn add_snapshot(&mut self, snapshot: Guid, file: &str) -> Result<()> {
        if snapshot.is_reserved() {
            return Err(DescriptorError::Reserved(snapshot));
        }
        if self.shot(snapshot).is_some() || self.image(snapshot).is_some() {
            return Err(DescriptorError::Duplicate(snapshot));
        }
        check_file(file)?;
        if self.images.iter().any(|image| image.file == file) {
            return Err(DescriptorError::DuplicateFile(file.to_owned()));
        }
        let old = self.top;
        // A top with another name (old format): ours gets the well-known one, it must be free.
        if old != Guid::TOP && self.shot(Guid::TOP).is_some() {
            return Err(DescriptorError::Duplicate(Guid::TOP));
        }
        self.rename(old, snapshot);
        self.images.push(ImageRef::new(Guid::TOP, ImageType::Compressed, file));
        self.shots.push(Shot::new(Guid::TOP, snapshot));
        self.top = Guid::TOP;
        Ok(())
    }

    /// Takes a snapshot out that no other lies on; its image is for the caller to unlink, after the
    /// descriptor is durable.
    ///
    /// # Errors
    /// There is none, it is the top or the base, or others lie on it.
    pub fn remove(&mut self, guid: Guid) -> Result<ImageRef> {
        let shot = self.shot(guid).ok_or(DescriptorError::NoShot(guid))?;
        if guid == self.top {
            return Err(DescriptorError::IsTop(guid));
        }
        if shot.parent == Guid::NONE {
            return Err(DescriptorError::IsBase(guid));
        }
        match self.children(guid).count() {
            0 => self.take(guid),
            children => Err(DescriptorError::HasChildren { guid, children }),
        }
    }

    /// After `child` was merged into its parent's file: the child takes the parent's file and
    /// parent, the parent's entries vanish. Returns the child's old image, for the caller to
    /// unlink after the descriptor is durable.
    ///
    /// # Errors
    /// There is no such snapshot, it is the base, or its parent has other children.
    pub fn merge_into_parent(&mut self, child: Guid) -> Result<ImageRef> {
        let parent = self.shot(child).ok_or(DescriptorError::NoShot(child))?.parent;
        if parent == Guid::NONE {
            return Err(DescriptorError::IsBase(child));
        }
        let grandparent =
            self.shot(parent).ok_or(DescriptorError::NoParent { child, parent })?.parent;
        let children = self.children(parent).count();
        if children != 1 {
            return Err(DescriptorError::HasChildren { guid: parent, children });
        }
        let old = self.image(child).ok_or(DescriptorError::NoImage(child))?.clone();
        // The parent's image stays at its place under the child's name.
        self.images.retain(|image| image.guid != child);
        for image in self.images.iter_mut().filter(|image| image.guid == parent) {
            image.guid = child;
        }
        self.shots.retain(|shot| shot.guid != parent);
        for shot in self.shots.iter_mut().filter(|shot| shot.guid == child) {
            shot.parent = grandparent;
        }
        Ok(old)
    }

    /// Turns a chain: the lowest image goes to its end, each other one a place down, while the
    /// names stay where they are. The state of a merge that goes on while the disk is in use.
    ///
    /// # Errors
    /// An image of the chain is missing.
    pub fn turn(&mut self, chain: &[Guid]) -> Result<()> {
        let mut images = Vec::with_capacity(chain.len());
        for guid in chain {
            images.push(self.image(*guid).ok_or(DescriptorError::NoImage(*guid))?.clone());
        }
        let by = images.len().min(1);
        images.rotate_left(by);
        for (guid, from) in chain.iter().zip(images) {
            for image in self.images.iter_mut().filter(|image| image.guid == *guid) {
                *image = ImageRef { guid: *guid, ..from.clone() };
            }
        }
        Ok(())
    }

    /// Takes a snapshot out whose only child has everything it has. Returns its image, for the
    /// caller to unlink after the descriptor is durable.
    ///
    /// # Errors
    /// There is no such snapshot, or it has not one child.
    pub fn drop_covered(&mut self, guid: Guid) -> Result<ImageRef> {
        let parent = self.shot(guid).ok_or(DescriptorError::NoShot(guid))?.parent;
        let children = self.children(guid).count();
        if children != 1 {
            return Err(DescriptorError::HasChildren { guid, children });
        }
        let image = self.image(guid).ok_or(DescriptorError::NoImage(guid))?.clone();
        self.images.retain(|image| image.guid != guid);
        self.shots.retain(|shot| shot.guid != guid);
        for shot in self.shots.iter_mut().filter(|shot| shot.parent == guid) {
            shot.parent = parent;
        }
        Ok(image)
    }

    /// Puts the new delta `file` on the snapshot `target` as the top. The old top is dropped, or
    /// kept under the name `keep`. Returns the image of a dropped top, for the caller to unlink
    /// after the descriptor is durable.
    ///
    /// # Errors
    /// There is no such snapshot, it is the top or waits to be merged, the old top is all the disk
    /// has, or the new names are taken.
    pub fn switch(
        &mut self,
        target: Guid,
        file: &str,
        keep: Option<Guid>,
    ) -> Result<Option<ImageRef>> {
        let shot = self.shot(target).ok_or(DescriptorError::NoShot(target))?;
        if target == self.top {
            return Err(DescriptorError::IsTop(target));
        }
        if shot.temporary != Temporary::No {
            return Err(DescriptorError::Temporary(target));
        }
        check_file(file)?;
        if self.images.iter().any(|image| image.file == file) {
            return Err(DescriptorError::DuplicateFile(file.to_owned()));
        }
        let dropped = match keep {
            Some(name) if name.is_reserved() => return Err(DescriptorError::Reserved(name)),
            Some(name) if self.shot(name).is_some() => {
                return Err(DescriptorError::Duplicate(name));
            }
            Some(name) => {
                self.rename(self.top, name);
                None
            }
            None => Some(self.take(self.top)?),
        };
        if self.shot(Guid::TOP).is_some() {
            return Err(DescriptorError::Duplicate(Guid::TOP));
        }
        self.images.push(ImageRef::new(Guid::TOP, ImageType::Compressed, file));
        self.shots.push(Shot::new(Guid::TOP, target));
        self.top = Guid::TOP;
        Ok(dropped)
    }

    /// Drops the top: the snapshot under it becomes the top, writable again. Returns the old top's
    /// image, for the caller to unlink after the descriptor is durable.
    ///
    /// # Errors
    /// The top is the base, or the snapshot under it waits to be merged or has other children.
    pub fn drop_top(&mut self) -> Result<ImageRef> {
        let top = self.top;
        let parent = self.shot(top).ok_or(DescriptorError::NoShot(top))?.parent;
        if parent == Guid::NONE {
            return Err(DescriptorError::IsBase(top));
        }
        if self.shot(parent).is_some_and(|shot| shot.temporary != Temporary::No) {
            return Err(DescriptorError::Temporary(parent));
        }
        let children = self.children(parent).count();
        if children != 1 {
            return Err(DescriptorError::HasChildren { guid: parent, children });
        }
        let dropped = self.take(top)?;
        if self.shot(Guid::TOP).is_some() {
            return Err(DescriptorError::Duplicate(Guid::TOP));
        }
        self.rename(parent, Guid::TOP);
        self.top = Guid::TOP;
        Ok(dropped)
    }

    /// Marks a snapshot.
    ///
    /// # Errors
    /// There is none of this name, or it is the top.
    pub fn set_temporary(&mut self, guid: Guid, state: Temporary) -> Result<()> {
        if guid == self.top && state != Temporary::No {
            return Err(DescriptorError::TemporaryTop(guid));
        }
        let shot = self.shots.iter_mut().find(|shot| shot.guid == guid);
        shot.ok_or(DescriptorError::NoShot(guid))?.temporary = state;
        Ok(())
    }

    fn rename(&mut self, from: Guid, to: Guid) {
        for image in self.images.iter_mut().filter(|image| image.guid == from) {
            image.guid = to;
        }
        for shot in &mut self.shots {
            if shot.guid == from {
                shot.guid = to;
            }
            if shot.parent == from {
                shot.parent = to;
            }
        }
    }

    fn take(&mut self, guid: Guid) -> Result<ImageRef> {
        let at = self.images.iter().position(|image| image.guid == guid);
        let image = self.images.remove(at.ok_or(DescriptorError::NoImage(guid))?);
        self.shots.retain(|shot| shot.guid != guid);
        Ok(image)
    }
}
