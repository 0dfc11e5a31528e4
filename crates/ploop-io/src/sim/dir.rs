//! Names of the simulated host.

use super::fault::{Attempt, Verdict};
use super::file::{DEVICE, SimFile};
use super::inode::Inode;
use super::names::{NameEffect, Node, normal};
use super::world::{SimWorld, World};
use super::{dead, errno};
use crate::{Dir, File, Ident, OpKind, OpenHow, Owner, Stat};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

/// Everything belongs to one user here.
const OWNER: Owner = Owner { uid: 0, gid: 0, mode: 0o600 };

/// The directories of a [`SimWorld`], as one process sees them.
#[derive(Clone, Debug)]
pub struct SimDir {
    world: SimWorld,
    life: u64,
}

impl SimDir {
    pub(super) fn new(world: SimWorld, life: u64) -> Self {
        Self { world, life }
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world.lock();
        if world.dead || world.life != self.life { Err(dead()) } else { Ok(world) }
    }

    /// Starts a change of names: it is an operation that can fail or be the last.
    fn start(&self, kind: OpKind, path: &Path) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.alive()?;
        let path = path.to_path_buf();
        let attempt = Attempt { kind, path, offset: 0, len: 0, blocking: true };
        let verdict = world.start_blocking(self.life, &attempt)?;
        world.tick += 1;
        if let Verdict::Fail(code) | Verdict::FailTorn(code) = verdict {
            world.boundary();
            return Err(errno(code));
        }
        Ok(world)
    }
}

fn parent_exists(world: &World, path: &Path) -> io::Result<()> {
    match path.parent().map(|parent| world.names.live.get(parent)) {
        Some(Some(Node::Dir)) => Ok(()),
        Some(Some(Node::File(_))) => Err(errno(libc::ENOTDIR)),
        _ => Err(errno(libc::ENOENT)),
    }
}

fn change(world: &mut World, effect: NameEffect) {
    world.seq += 1;
    let seq = world.seq;
    world.names.change(seq, effect);
    world.boundary();
}

impl Dir for SimDir {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<File> {
        let path = normal(path);
        let known = self.alive()?.names.live.get(&path).copied();
        let ways = (how.write, how.direct);
        match known {
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            Some(Node::File(_)) if how.create_new => Err(errno(libc::EEXIST)),
            Some(Node::File(ino)) => {
                let mut world = self.alive()?;
                Ok(Arc::new(SimFile::open(&self.world, &mut world, ino, path, ways)))
            }
            None if !how.create_new && !how.create => Err(errno(libc::ENOENT)),
            None => {
                parent_exists(&*self.alive()?, &path)?;
                let mut world = self.start(OpKind::Reserve, &path)?;
                let ino = world.new_inode();
                world.inodes.insert(ino, Inode::default());
                let file = SimFile::open(&self.world, &mut world, ino, path.clone(), ways);
                change(&mut world, NameEffect::Create { path, ino });
                drop(world);
                Ok(Arc::new(file))
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut world = self.start(OpKind::Write, &to)?;
        parent_exists(&world, &to)?;
        let Some(Node::File(ino)) = world.names.live.get(&from).copied() else {
            return Err(errno(libc::ENOENT));
        };
        change(&mut world, NameEffect::Rename { from, to, ino });
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut world = self.start(OpKind::Punch, &path)?;
        match world.names.live.get(&path).copied() {
            Some(Node::File(ino)) => change(&mut world, NameEffect::Unlink { path, ino }),
            Some(Node::Dir) => return Err(errno(libc::EISDIR)),
            None => return Err(errno(libc::ENOENT)),
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = normal(dir);
        let mut world = self.start(OpKind::Sync, &dir)?;
        if world.names.live.get(&dir) != Some(&Node::Dir) {
            return Err(errno(libc::ENOTDIR));
        }
        world.names.cover(&dir);
        world.boundary();
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let world = self.alive()?;
        let path = normal(path);
        match world.names.live.get(&path).copied() {
            Some(Node::File(ino)) => Ok(Stat {
                ident: Ident { dev: DEVICE, ino },
                len: world.inodes.get(&ino).map_or(0, |inode| inode.live.len),
                links: 1,
                is_file: true,
                is_dir: false,
                owner: OWNER,
            }),
            Some(Node::Dir) => Ok(Stat {
                ident: Ident { dev: DEVICE, ino: 1 },
                len: 0,
                links: 1,
                is_file: false,
                is_dir: true,
                owner: OWNER,
            }),
            None => Err(errno(libc::ENOENT)),
        }
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.stat(path)?;
        Ok(normal(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.alive()?;
        let dir = normal(dir);
        if world.names.live.get(&dir) != Some(&Node::Dir) {
            return Err(errno(libc::ENOENT));
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir.as_path());
        Ok(world
            .names
            .live
            .keys()
            .filter(inside)
            .filter_map(|p| p.file_name())
            .map(PathBuf::from)
            .collect())
    }

    fn read_small(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenHow::default())?;
        let len = file.len()?;
        if len > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {len} bytes, at most {limit} expected", path.display()),
            ));
        }
        let mut bytes = vec![0; len as usize];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }
}
