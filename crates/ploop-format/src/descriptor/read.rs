//! From the tree to the model.

use super::error::DescriptorError;
use super::model::{Descriptor, ImageRef, ImageType, Piece, Shot, Temporary, Volume};
use super::pieces::whole;
use super::tree::Element;
use super::{Result, xml};
use crate::guid::Guid;
use crate::size::parse_number;
use crate::units::ClusterSize;

impl Descriptor {
    /// Reads a descriptor: every dialect, no file but these bytes.
    ///
    /// # Errors
    /// Not well-formed, beyond the limits, or a part that is needed is missing or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document = xml::read(bytes)?;
        let root = &document.root;
        let parameters = child(root, "Disk_Parameters")?;
        let data = child(root, "StorageData")?;
        let snapshots = child(root, "Snapshots")?;
        let storage = child(data, "Storage")?;
        let cluster = cluster(storage)?;
        let (more, end) = pieces(data, cluster)?;
        let size = lenient(parameters, "Disk_size");
        if end != 0 && end != size {
            return Err(DescriptorError::PieceEnd { piece: more.len(), end, size });
        }
        let images: Vec<ImageRef> = storage.all("Image").map(image).collect::<Result<_>>()?;
        let shots: Vec<Shot> = snapshots.all("Shot").map(shot).collect::<Result<_>>()?;
        let shots = complete(shots, images.len())?;
        let top = top(snapshots, &shots)?;
        let parsed = Self {
            // A size nobody can read is left 0 as by the original: the header knows it.
            size_sectors: size,
            cylinders: lenient(parameters, "Cylinders"),
            heads: lenient(parameters, "Heads"),
            sectors: lenient(parameters, "Sectors"),
            cluster,
            preallocated: preallocated(data)?,
            max_delta_size: optional(parameters, "Max_delta_size")?,
            key_id: encryption(parameters, "KeyId"),
            engine: encryption(parameters, "Engine"),
            volume: data.get("Volume").map(volume).transpose()?,
            images,
            more,
            shots,
            top,
            document,
            part: false,
        };
        parsed.check()?;
        parsed.logical_sector()?;
        Ok(parsed)
    }

    /// Bytes of a logical sector of the device: 512 unless the descriptor says otherwise.
    ///
    /// # Errors
    /// It says what no disk has.
    pub fn logical_sector(&self) -> Result<u32> {
        match self.parameter("LogicSectorSize")?.unwrap_or(512) {
            size @ (512 | 1024 | 2048 | 4096) => Ok(size as u32),
            other => Err(DescriptorError::SectorSize(other)),
        }
    }

    /// Bytes of a physical sector, when the descriptor names a size that a disk can have.
    #[must_use]
    pub fn physical_sector(&self) -> Option<u32> {
        let size = self.parameter("PhysicalSectorSize").ok().flatten()?;
        let size = u32::try_from(size).ok()?;
        (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size)
    }

    fn parameter(&self, name: &'static str) -> Result<Option<u64>> {
        let parameters = self.document.root.get("Disk_Parameters");
        parameters.map_or(Ok(None), |parameters| optional(parameters, name))
    }
}

/// The pieces behind the first, and where the last one ends; none and 0 of a disk in one piece.
fn pieces(data: &Element, first: ClusterSize) -> Result<(Vec<Piece>, u64)> {
    let storages: Vec<&Element> = data.all("Storage").collect();
    let mut more = Vec::new();
    let mut end = 0;
    for (n, storage) in storages.iter().enumerate().filter(|_| storages.len() > 1) {
        let number = |name| optional(storage, name)?.ok_or(DescriptorError::Missing(name));
        let start = number("Start")?;
        if start != end {
            return Err(DescriptorError::PieceStart { piece: n, start, expected: end });
        }
        end = number("End")?;
        if end <= start {
            return Err(DescriptorError::PieceEmpty { piece: n, start, end });
        }
        whole(n, start, first)?;
        let own = cluster(storage)?;
        if own != first {
            let (have, first) = (own.sectors(), first.sectors());
            return Err(DescriptorError::PieceCluster { piece: n, have, first });
        }
        let images: Vec<ImageRef> = storage.all("Image").map(image).collect::<Result<_>>()?;
        if n > 0 {
            more.push(Piece { start, images });
        }
    }
    Ok((more, end))
}

fn encryption(parameters: &Element, name: &str) -> Option<String> {
    parameters.get("Encryption").and_then(|encryption| encryption.child_text(name))
}

fn child<'a>(element: &'a Element, name: &'static str) -> Result<&'a Element> {
    element.get(name).ok_or(DescriptorError::Missing(name))
}

fn number(element: &'static str, text: &str) -> Result<u64> {
    let bad = || DescriptorError::Number { element, text: text.chars().take(64).collect() };
    parse_number(text).ok_or_else(bad)
}

pub(super) fn optional(element: &Element, name: &'static str) -> Result<Option<u64>> {
    element.child_text(name).map(|text| number(name, &text)).transpose()
}

fn lenient(element: &Element, name: &'static str) -> u64 {
    element.child_text(name).and_then(|text| parse_number(&text)).unwrap_or(0)
}

fn guid(element: &Element, name: &'static str) -> Result<Guid> {
    let text = element.child_text(name).ok_or(DescriptorError::Missing(name))?;
    text.parse().map_err(|error| DescriptorError::Guid { element: name, error })
}

pub(super) fn cluster(storage: &Element) -> Result<ClusterSize> {
    let value = optional(storage, "Blocksize")?.ok_or(DescriptorError::Missing("Blocksize"))?;
    u32::try_from(value)
        .ok()
        .and_then(ClusterSize::from_sectors)
        .ok_or(DescriptorError::Blocksize(value))
}

fn preallocated(data: &Element) -> Result<bool> {
    let says = |storage| optional(storage, "Preallocated");
    let all: Vec<Option<u64>> = data.all("Storage").map(says).collect::<Result<_>>()?;
    Ok(all.iter().flatten().any(|value| *value != 0))
}

pub(super) fn image(node: &Element) -> Result<ImageRef> {
    let kind = node.child_text("Type").ok_or(DescriptorError::Missing("Type"))?;
    let kind = match kind.as_str() {
        "Plain" => ImageType::Plain,
        "Compressed" => ImageType::Compressed,
        _ => return Err(DescriptorError::ImageType(kind.chars().take(64).collect())),
    };
    let file = node.child_text("File").filter(|file| !file.is_empty());
    let file = file.ok_or(DescriptorError::Missing("File"))?;
    Ok(ImageRef { guid: guid(node, "GUID")?, kind, file, node: node.clone() })
}

fn shot(node: &Element) -> Result<Shot> {
    let mark = |(_, name): &&(Temporary, &str)| node.get(name).is_some();
    let temporary = Temporary::MARKS.iter().find(mark).map_or(Temporary::No, |(state, _)| *state);
    let (guid, parent) = (guid(node, "GUID")?, guid(node, "ParentGUID")?);
    Ok(Shot { guid, parent, temporary, node: node.clone() })
}

fn volume(node: &Element) -> Result<Volume> {
    Ok(Volume {
        parent: node.child_text("Parent"),
        snapshot: node.get("SnapshotGUID").map(|_| guid(node, "SnapshotGUID")).transpose()?,
        read_only: optional(node, "ReadOnly")?.is_some_and(|value| value != 0),
    })
}

/// A disk that never had a snapshot may have no shots: then the one for its image is implied.
fn complete(mut shots: Vec<Shot>, images: usize) -> Result<Vec<Shot>> {
    if images == 0 {
        return Err(DescriptorError::Missing("Image"));
    }
    if shots.len() + 1 == images && shots.iter().all(|shot| shot.guid != Guid::TOP) {
        shots.push(Shot::new(Guid::TOP, Guid::NONE));
    }
    Ok(shots)
}

fn top(snapshots: &Element, shots: &[Shot]) -> Result<Guid> {
    match snapshots.child_text("TopGUID").filter(|text| !text.is_empty()) {
        Some(_) => guid(snapshots, "TopGUID"),
        None if shots.iter().any(|shot| shot.guid == Guid::TOP) => Ok(Guid::TOP),
        None => Err(DescriptorError::NoTop),
    }
}
