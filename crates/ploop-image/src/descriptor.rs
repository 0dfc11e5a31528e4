//! DiskDescriptor.xml: which images make a disk, and what hangs on what.

use crate::xml::{self, Element};
use ploop_format::Sector;
use std::path::PathBuf;
use uuid::{Uuid, uuid};

/// Names the current writable top.
pub const TOP: Uuid = uuid!("5fbaabe3-6958-40ff-92a7-860e329aab41");
/// Reserved by Parallels for backups; never a top.
pub const BACKUP: Uuid = uuid!("704718e1-2314-44c8-9087-d78ed36b0f4e");

/// What the descriptor calls an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageType {
    /// A ploop image.
    Compressed,
    /// A raw file.
    Plain,
}

/// An `Image` element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Its name in the tree of snapshots.
    pub guid: Uuid,
    /// How it is marked.
    pub kind: ImageType,
    /// As written: relative to the descriptor, or absolute.
    pub file: PathBuf,
}

/// A `Shot` element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shot {
    /// Which image.
    pub guid: Uuid,
    /// The image below it; nil for the base.
    pub parent: Uuid,
    /// Made for a passing purpose.
    pub temporary: bool,
}

/// A descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// Size of the device; 0 when it tells none.
    pub size: Sector,
    /// Sectors of a cluster; 0 when it tells none.
    pub block_size: u32,
    /// Space is never given back.
    pub preallocated: bool,
    /// All images.
    pub images: Vec<Image>,
    /// All snapshots, the top included.
    pub shots: Vec<Shot>,
    /// The writable image.
    pub top: Uuid,
    text: String,
    root: Element,
}

type Result<T> = std::result::Result<T, String>;

impl Descriptor {
    /// Reads a descriptor of Parallels, ploop 1.x, 7.x or 9.x.
    ///
    /// # Errors
    /// A phrase that says what is missing or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        let root = Element::parse(text)?;
        let parameters = root.child("Disk_Parameters").ok_or("no Disk_Parameters")?;
        let data = root.child("StorageData").ok_or("no StorageData")?;
        if data.all("Storage").count() > 1 {
            return Err("it describes a split disk (several Storage elements)".to_owned());
        }
        let storage = data.child("Storage").ok_or("no Storage")?;
        let images = storage.all("Image").map(image).collect::<Result<Vec<_>>>()?;
        if images.is_empty() {
            return Err("it names no image".to_owned());
        }
        let snapshots = root.child("Snapshots");
        let (shots, top) = tree(snapshots, &images)?;
        Ok(Self {
            size: Sector(number(parameters.text_of("Disk_size")).unwrap_or(0)),
            block_size: number(storage.text_of("Blocksize"))
                .map_or(Ok(0), u32::try_from)
                .map_err(|_| "its Blocksize is too large")?,
            preallocated: number(storage.text_of("Preallocated")) == Some(1),
            images,
            shots,
            top,
            text: text.to_owned(),
            root,
        })
    }

    /// The images from the base to the top.
    ///
    /// # Errors
    /// A phrase: a name nothing stands for, or a circle.
    pub fn chain(&self) -> Result<Vec<&Image>> {
        self.chain_of(self.top)
    }

    /// The images from the base to the one of a name.
    ///
    /// # Errors
    /// As [`Descriptor::chain`].
    pub fn chain_of(&self, guid: Uuid) -> Result<Vec<&Image>> {
        let mut chain = Vec::new();
        let mut at = guid;
        while !at.is_nil() {
            if chain.len() >= self.images.len() {
                return Err("its snapshots form a circle".to_owned());
            }
            let image = self.images.iter().find(|i| i.guid == at);
            chain.push(image.ok_or_else(|| format!("no image has the name {{{at}}}"))?);
            let shot = self.shots.iter().find(|s| s.guid == at);
            at = shot.ok_or_else(|| format!("no snapshot has the name {{{at}}}"))?.parent;
        }
        chain.reverse();
        Ok(chain)
    }

    /// The text after a snapshot: the old top is called `frozen`, `file` becomes the new top.
    ///
    /// # Errors
    /// A phrase: the elements to change are not there.
    pub fn with_snapshot(&self, frozen: Uuid, file: &str) -> Result<String> {
        let storage = self.root.child("StorageData").and_then(|d| d.child("Storage"));
        let storage = storage.ok_or("no Storage")?;
        let snapshots = self.root.child("Snapshots").ok_or("no Snapshots")?;
        let old = format!("{{{frozen}}}");
        let named = |element: &Element| guid(element.text_of("GUID")).ok() == Some(self.top);
        let mut edits = Vec::new();
        for element in storage.all("Image").chain(snapshots.all("Shot")).filter(|e| named(e)) {
            let guid = element.child("GUID").ok_or("no GUID")?;
            edits.push((guid.inner.clone(), old.clone()));
        }
        let last = storage.all("Image").last().ok_or("no Image")?;
        let image = format!(
            "\n      <Image>\n        <GUID>{{{TOP}}}</GUID>\n        <Type>Compressed</Type>\n        \
             <File>{}</File>\n      </Image>",
            xml::escaped(file)
        );
        edits.push((last.outer.end..last.outer.end, image));
        let shot = format!(
            "\n    <Shot>\n      <GUID>{{{TOP}}}</GUID>\n      <ParentGUID>{old}</ParentGUID>\n    \
             </Shot>"
        );
        let last = snapshots.all("Shot").last().ok_or("no Shot")?;
        edits.push((last.outer.end..last.outer.end, shot));
        match snapshots.child("TopGUID") {
            Some(top) => edits.push((top.inner.clone(), format!("{{{TOP}}}"))),
            None => edits.push((
                snapshots.inner.start..snapshots.inner.start,
                format!("\n    <TopGUID>{{{TOP}}}</TopGUID>"),
            )),
        }
        let text = xml::splice(&self.text, edits);
        // What was written must be readable again before it replaces the old one.
        let chain = Self::parse(text.as_bytes())?.chain()?.len();
        match chain == self.chain()?.len() + 1 {
            true => Ok(text),
            false => Err(format!("the new chain would have {chain} images")),
        }
    }
}

fn image(element: &Element) -> Result<Image> {
    let kind = match element.text_of("Type") {
        "Plain" => ImageType::Plain,
        "Compressed" => ImageType::Compressed,
        other => return Err(format!("an image has the type {other:?}")),
    };
    let file = element.text_of("File");
    if file.is_empty() {
        return Err("an image has no file".to_owned());
    }
    Ok(Image { guid: guid(element.text_of("GUID"))?, kind, file: PathBuf::from(file) })
}

/// Shots and top; a descriptor of one image needs neither.
fn tree(snapshots: Option<&Element>, images: &[Image]) -> Result<(Vec<Shot>, Uuid)> {
    let mut shots = Vec::new();
    for element in snapshots.into_iter().flat_map(|s| s.all("Shot")) {
        shots.push(Shot {
            guid: guid(element.text_of("GUID"))?,
            parent: guid(element.text_of("ParentGUID"))?,
            temporary: element.child("Temporary").is_some(),
        });
    }
    let named = snapshots.map_or("", |s| s.text_of("TopGUID"));
    let top = match named {
        "" if images.iter().any(|i| i.guid == TOP) => TOP,
        "" if images.len() == 1 => images[0].guid,
        "" => return Err("no TopGUID, and no image has the name of a top".to_owned()),
        text => guid(text)?,
    };
    if shots.len() < images.len() && !shots.iter().any(|s| s.guid == top) {
        shots.push(Shot { guid: top, parent: Uuid::nil(), temporary: false });
    }
    if shots.iter().any(|s| s.guid == top && s.temporary) {
        return Err("its top is a temporary snapshot".to_owned());
    }
    Ok((shots, top))
}

fn guid(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| format!("{text:?} is no GUID"))
}

/// A number as the original reads it: decimal, `0x` or octal.
fn number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}
