//! A descriptor for a lone image (`restore-descriptor`).

use crate::create::Kind;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::Head;
use crate::locate::DESCRIPTOR;
use crate::scan;
use crate::store;
use ploop_format::{ClusterSize, Descriptor, ImageType, Sector};
use ploop_io::{Dir, Entropy, OpenHow, RawFile};
use std::path::{Path, PathBuf};

/// Largest first: what the original tries for a raw file.
const RAW_CLUSTERS: [u32; 6] = [2048, 1024, 512, 256, 128, 64];

/// Writes `DiskDescriptor.xml` into `home` for one image file. Without `kind` the image must have
/// a ploop signature; a raw file is never guessed. `cluster` is for raw files.
///
/// # Errors
/// A descriptor exists (17), the image is not usable (11), or is not below `home` (38).
pub fn restore_descriptor(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    home: &Path,
    image: &Path,
    kind: Option<Kind>,
    cluster: Option<ClusterSize>,
) -> Result<PathBuf> {
    let home = dir.canonical(home).at(ErrorKind::Open, "cannot find", home)?;
    let descriptor = home.join(DESCRIPTOR);
    if dir.stat(&descriptor).is_ok() {
        let text = format!("{} exists", descriptor.display());
        return Err(ImageError::new(ErrorKind::DescriptorExists, text));
    }
    let path = dir.canonical(image).at(ErrorKind::Open, "cannot find", image)?;
    let name = path.strip_prefix(&home).ok().and_then(Path::to_str).ok_or_else(|| {
        let text = format!("{} does not lie below {}", path.display(), home.display());
        ImageError::new(ErrorKind::Param, text)
    })?;
    if !dir.stat(&path).at(ErrorKind::Stat, "cannot stat", &path)?.is_file {
        let text = format!("{} is not a regular file", path.display());
        return Err(ImageError::new(ErrorKind::Param, text));
    }
    let file = dir.open(&path, OpenHow::default()).at(ErrorKind::Open, "cannot open", &path)?;
    let (size, cluster, kind) = match kind {
        Some(Kind::Raw { .. }) => raw(&*file, &path, cluster)?,
        _ => ploop(&*file, &path, kind)?,
    };
    let image = match kind {
        Kind::Raw { .. } => ImageType::Plain,
        _ => ImageType::Compressed,
    };
    let text = Descriptor::new(size, cluster, image, kind == Kind::Preallocated, name)
        .and_then(|new| new.to_xml())
        .map_err(|e| {
            let text = format!("no descriptor can be made for {}", path.display());
            ImageError::new(ErrorKind::Descriptor, text).because(e)
        })?;
    store::store_new(dir, entropy, &descriptor, &text, &path)?;
    Ok(descriptor)
}

fn raw(
    file: &dyn RawFile,
    path: &Path,
    cluster: Option<ClusterSize>,
) -> Result<(Sector, ClusterSize, Kind)> {
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    if len == 0 {
        let text = format!("{} is empty: a disk has at least one sector", path.display());
        return Err(ImageError::new(ErrorKind::BadImage, text));
    }
    // The largest that divides it, as the original; the end may lie inside a cluster, or a sector.
    let mut tried = RAW_CLUSTERS.into_iter().filter_map(ClusterSize::from_sectors);
    let fitting = tried.find(|cluster| cluster.offset_in(len) == 0);
    let usual = ClusterSize::from_sectors(RAW_CLUSTERS[0]);
    let cluster = cluster.or(fitting).or(usual).ok_or_else(|| {
        let text = format!("{} has {len} bytes, no cluster size fits", path.display());
        ImageError::new(ErrorKind::BadImage, text)
    })?;
    Ok((Sector(len.div_ceil(512)), cluster, Kind::Raw { sparse: true }))
}

/// Preallocated when the caller says so, or when every entry is mapped.
fn ploop(
    file: &dyn RawFile,
    path: &Path,
    kind: Option<Kind>,
) -> Result<(Sector, ClusterSize, Kind)> {
    let head = Head::read(file, path)?;
    let kind = match kind {
        Some(kind) => kind,
        None => {
            let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
            let table = head.table(len);
            let scan = scan::scan(file, &table, &[], &mut |_| {}).at(
                ErrorKind::Read,
                "cannot read the BAT of",
                path,
            )?;
            let full = scan.mapped == table.entries;
            if full { Kind::Preallocated } else { Kind::Expanded }
        }
    };
    Ok((head.size(), head.cluster(), kind))
}
