//! The disk a run works on: made by the real image code, durable before the run begins.

use crate::life::{OpenError, open_options};
use crate::profile::{Profile, cluster};
use ploop_format::descriptor::{Descriptor, Temporary};
use ploop_format::{Guid, Header, ImageType, InUse, Sector};
use ploop_image::layers::describe;
use ploop_image::{CreateOptions, Kind, create, snapshot};
use ploop_io::sim::SimWorld;
use ploop_io::{Dir, OpenHow};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory of the disk.
pub const HOME: &str = "/disk";
/// The descriptor.
pub const DESCRIPTOR: &str = "/disk/DiskDescriptor.xml";

/// Makes the disk of a profile, with one level.
///
/// # Errors
/// The image code says no.
pub fn create_disk(world: &SimWorld, profile: &Profile) -> Result<(), String> {
    world.mkdir(Path::new(HOME));
    if profile.pieces > 1 {
        return create_split(world, profile);
    }
    let size = Sector(profile.clusters * u64::from(cluster().sectors()));
    let kind = if profile.raw { Kind::Raw { sparse: true } } else { Kind::Expanded };
    let options = CreateOptions { size, version: profile.version, cluster: cluster(), kind };
    let path = Path::new(HOME).join("root.hds");
    create(&world.dir(), &world.entropy(1), &path, &options, &mut |_, _| {})
        .map_err(|e| format!("create: {}", OpenError::Image(e)))?;
    Ok(())
}

/// First sectors of the pieces, and the end of the device.
fn bounds(profile: &Profile) -> Vec<u64> {
    let pieces = profile.pieces.max(1) as u64;
    let cluster = u64::from(cluster().sectors());
    (0..=pieces).map(|n| profile.clusters * n / pieces * cluster).collect()
}

/// The name of the first image of a piece, as another program makes it.
fn piece_file(piece: usize) -> String {
    format!("root.{piece}.{}.hds", Guid::TOP)
}

/// The base that has a sector, and the first sector of its piece.
#[must_use]
pub fn base_of(profile: &Profile, sector: u64) -> (PathBuf, u64) {
    let home = Path::new(HOME);
    if profile.pieces <= 1 {
        return (home.join("root.hds"), 0);
    }
    let bounds = bounds(profile);
    let piece = bounds.partition_point(|start| *start <= sector).clamp(1, bounds.len() - 1) - 1;
    (home.join(piece_file(piece)), bounds[piece])
}

/// A disk in pieces, which none of our operations makes: durable from the start.
fn create_split(world: &SimWorld, profile: &Profile) -> Result<(), String> {
    let bounds = bounds(profile);
    let sectors = cluster().sectors();
    let kind = if profile.raw { "Plain" } else { "Compressed" };
    let mut storages = String::new();
    for (piece, pair) in bounds.windows(2).enumerate() {
        let (start, end) = (pair[0], pair[1]);
        let file = piece_file(piece);
        let path = Path::new(HOME).join(&file);
        if profile.raw {
            world.put_file(&path, &[]);
            world.cut_file(&path, (end - start) * 512).map_err(|e| e.to_string())?;
        } else {
            let header = Header::new(profile.version, cluster(), Sector(end - start));
            let header = header.map_err(|e| e.to_string())?;
            let mut bytes = vec![0; header.data_start() as usize];
            bytes[..64].copy_from_slice(&header.encode());
            world.put_file(&path, &bytes);
        }
        storages += &format!(
            "<Storage><Start>{start}</Start><End>{end}</End><Blocksize>{sectors}</Blocksize>\
             <Image><GUID>{}</GUID><Type>{kind}</Type><File>{file}</File></Image></Storage>",
            Guid::TOP
        );
    }
    let size = bounds.last().copied().unwrap_or(0);
    let text = format!(
        "<?xml version=\"1.0\"?><Parallels_disk_image><Disk_Parameters><Disk_size>{size}\
         </Disk_size></Disk_Parameters><StorageData>{storages}</StorageData><Snapshots>\
         <TopGUID>{}</TopGUID><Shot><GUID>{}</GUID><ParentGUID>{}</ParentGUID></Shot>\
         </Snapshots></Parallels_disk_image>",
        Guid::TOP,
        Guid::TOP,
        Guid::NONE
    );
    world.put_file(Path::new(DESCRIPTOR), text.as_bytes());
    Ok(())
}

/// Takes a snapshot, so that the disk has an empty top. Nobody has it open.
///
/// # Errors
/// The image code says no.
pub fn add_level(world: &SimWorld, number: u64) -> Result<(), String> {
    let target = Path::new(DESCRIPTOR);
    snapshot(&world.dir(), &world.entropy(number), target, None, &open_options(false))
        .map_err(|e| format!("snapshot: {}", OpenError::Image(e)))?;
    Ok(())
}

/// Where the base of another disk lies.
pub const OTHER: &str = "/other/root.hds";

/// Makes the base that of another disk: it lies in another directory, with clusters behind its last
/// one, and a mark that no operation of this disk left. Nobody has it open.
///
/// # Errors
/// The base is not where it was made.
pub fn give_base_away(world: &SimWorld) -> Result<(), String> {
    let told = |e: std::io::Error| e.to_string();
    let (home, other) = (Path::new(HOME), Path::new(OTHER));
    let folder = other.parent().unwrap_or(home);
    world.mkdir(folder);
    let dir = world.dir();
    dir.rename(&home.join("root.hds"), other).map_err(told)?;
    let text = dir.read_small(Path::new(DESCRIPTOR), 1 << 20).map_err(told)?;
    let text =
        String::from_utf8_lossy(&text).replace("<File>root.hds<", "<File>../other/root.hds<");
    let file = dir.open(Path::new(DESCRIPTOR), OpenHow { write: true, ..OpenHow::default() });
    let file = file.map_err(told)?;
    file.write_at(text.as_bytes(), 0).map_err(told)?;
    file.sync().map_err(told)?;
    let base = dir.open(other, OpenHow { write: true, ..OpenHow::default() }).map_err(told)?;
    let mut header = [0; 512];
    base.read_at(&mut header, 0).map_err(told)?;
    header[44..48].copy_from_slice(&InUse::InUse.word().to_le_bytes());
    base.write_at(&header, 0).map_err(told)?;
    base.set_len(base.len().map_err(told)? + 2 * cluster().bytes()).map_err(told)?;
    base.sync().map_err(told)?;
    dir.sync_dir(home).and_then(|()| dir.sync_dir(folder)).map_err(told)
}

/// The base, where it is raw.
#[must_use]
pub fn raw_base(dir: &dyn Dir, target: &Path) -> Option<Guid> {
    let parsed = describe(dir, target).ok()?;
    let base = parsed.chain().ok()?.into_iter().next()?;
    (base.kind == ImageType::Plain).then_some(base.guid)
}

fn descriptor(world: &SimWorld) -> Result<Descriptor, String> {
    let text = world.read_file(Path::new(DESCRIPTOR)).map_err(|e| e.to_string())?;
    Descriptor::parse(&text).map_err(|e| e.to_string())
}

/// Pieces of the disk: 1 of most.
///
/// # Errors
/// The descriptor is not there.
pub fn pieces(world: &SimWorld) -> Result<usize, String> {
    descriptor(world).map(|parsed| parsed.pieces())
}

/// Levels of the disk, in each of its pieces.
///
/// # Errors
/// The descriptor is not there.
pub fn levels(world: &SimWorld) -> Result<usize, String> {
    descriptor(world)?.chain().map(|chain| chain.len()).map_err(|e| e.to_string())
}

/// A hash of every image below the top (I6); 0 for one that writes change in place.
///
/// # Errors
/// A file is not there.
pub fn lower_images(world: &SimWorld) -> Result<BTreeMap<PathBuf, u64>, String> {
    let whole = descriptor(world)?;
    let mut hashes = BTreeMap::new();
    for n in 0..whole.pieces() {
        lower_of_piece(world, &whole.piece(n), &mut hashes)?;
    }
    Ok(hashes)
}

fn lower_of_piece(
    world: &SimWorld,
    descriptor: &Descriptor,
    hashes: &mut BTreeMap<PathBuf, u64>,
) -> Result<(), String> {
    let mut chain = descriptor.chain().map_err(|e| e.to_string())?;
    chain.pop();
    // Written in place; a merge has turned the chain.
    let turned = descriptor.turned().map_err(|e| e.to_string())?;
    // Or the top goes down into it.
    let base = chain.first().filter(|base| chain.len() == 1 && base.kind == ImageType::Plain);
    let base = base.and_then(|base| descriptor.shot(base.guid));
    let base = base.filter(|shot| shot.temporary == Temporary::Yes).map(|shot| &shot.guid);
    let below = turned.first().or(base);
    for image in chain {
        let path = Path::new(HOME).join(&image.file);
        let hash = match below == Some(&image.guid) {
            true => 0,
            false => world.hash_file(&path).map_err(|e| e.to_string())?,
        };
        hashes.insert(path, hash);
    }
    Ok(())
}
