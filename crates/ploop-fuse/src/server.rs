//! Mounts the file, has it served by the queues, unmounts.

use crate::apart::apart;
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::file::{File, Owner};
use crate::handshake;
use crate::mount::{self, Unmount};
use crate::protocol::reply::Reply;
use crate::queues::{FuseQueues, NewMount, Party};
use ploop_engine::Limits;
use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the kernel may be busy with writes that keep it from taking a new size.
const TAKES_SIZE: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Clone)]
pub struct FuseOptions {
    /// Refuse writing with `EROFS`.
    pub read_only: bool,
    /// Requests the kernel keeps in flight for one who does not wait (fio, a loop device).
    pub max_background: u16,
    /// Requests in flight on one queue from which on all queues serve the file. Below it the others
    /// sleep: several that wait for one request are all woken for it.
    pub share_at: usize,
    /// Tells the bytes the disk takes, for `st_blocks`; without it the whole size is shown. Must
    /// not block.
    pub allocated: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
}

/// A mounted FUSE file.
///
/// Dropping it unmounts; users who still have the file open get errors then.
pub struct FuseServer {
    path: PathBuf,
    mount: u64,
    created: Option<(u64, u64)>,
    served: Arc<File>,
    channel: Arc<Channel>,
    /// Ends with the connection.
    session: Option<JoinHandle<()>>,
    detached: bool,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self { read_only: false, max_background: 256, share_at: 48, allocated: None }
    }
}

impl std::fmt::Debug for FuseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FuseServer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FuseServer {
    /// Mounts over `file`, a regular file, created when absent (T13), and has it served by
    /// `queues`, which run already. A mount left by a killed server is taken away first.
    ///
    /// The file answers when this returns. Not for a queue's or keeper's thread (D8).
    ///
    /// # Errors
    /// The file is of another kind, is served already, or the mount is refused.
    pub fn mount(
        file: &Path,
        queues: &FuseQueues,
        limits: Limits,
        options: FuseOptions,
    ) -> Result<Self> {
        if queues.inboxes.is_empty() || limits.block == 0 || limits.size < u64::from(limits.block) {
            let what = format!("no queue, or a device of {} bytes", limits.size);
            return Err(Error::Invalid { what });
        }
        mount::clear_stale(file)?;
        let created = create(file)?;
        let path = mount::absolute(file)?;
        let mut started = Self::start(&path, queues, limits, options);
        match &mut started {
            Ok(server) => server.created = created,
            Err(_) => remove(&path, created),
        }
        started
    }

    fn start(
        path: &Path,
        queues: &FuseQueues,
        limits: Limits,
        options: FuseOptions,
    ) -> Result<Self> {
        let data = fs::metadata(path).map_err(|error| Error::system("look at", path, error))?;
        let read_only = options.read_only || limits.read_only;
        let owner = Owner { uid: data.uid(), gid: data.gid(), mode: data.mode() };
        let file =
            Arc::new(File::new(limits, read_only, owner, options.allocated, options.share_at));
        let failed = |error| Error::system("serve", path, error);
        let channel = Arc::new(Channel::new(mount::mount(path, owner, read_only)?));
        let guard = Unmounter(Some(path));
        let id = mount::mounted_at(path)?.map_or(0, |entry| entry.id);
        handshake::shake(&channel, options.max_background, path)?;
        let party = Arc::new(Party::default());
        let mut mounts = Vec::new();
        let home = queues.next_home();
        for queue in 0..queues.inboxes.len() {
            let channel = channel.another().map_err(failed)?;
            let (file, present) = (Arc::clone(&file), party.join());
            mounts.push(NewMount { channel, file, home: queue == home, present });
        }
        let (last, name) = (Arc::clone(&channel), Arc::clone(&file));
        let session = std::thread::Builder::new()
            .name("ploop-fuse".to_owned())
            .spawn(move || {
                io_flusher();
                handshake::linger(&last, &name, &party);
            })
            .map_err(failed)?;
        guard.keep();
        for (inbox, mount) in queues.inboxes.iter().zip(mounts) {
            inbox.mount(mount);
        }
        Ok(Self {
            path: path.to_path_buf(),
            mount: id,
            created: None,
            served: file,
            channel,
            session: Some(session),
            detached: false,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device has grown (or shrunk): the file follows, and whoever is told of it later reads
    /// up to the new end. Not for a thread that serves (D8).
    ///
    /// The kernel passes by a size that it has asked for when a write ends meanwhile, but tells it
    /// to the caller of `stat` all the same: a loop device would take it, and direct reads behind
    /// the size that the kernel still has get no bytes. So it is asked until it has the new one.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn set_size(&self, bytes: u64) -> Result<()> {
        self.served.set_size(bytes);
        let wanted = self.served.size();
        let failed = |error| Error::system("resize", &self.path, error);
        let until = Instant::now() + TAKES_SIZE;
        loop {
            // Forget what was told before; if it fails the kernel does so after a second.
            self.channel.answer(&Reply::attributes_changed());
            let has = size_in_kernel(&self.path)?;
            if has == wanted {
                return Ok(());
            }
            if Instant::now() >= until {
                let what = format!("the kernel holds on to {has} bytes, not {wanted}");
                return Err(failed(io::Error::other(what)));
            }
            std::thread::yield_now();
        }
    }

    /// Whether the mount is gone and the last user with it.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.session.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Unmounts, waits for the session's threads and removes the file if it was created here.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody has the file open: nothing has changed, the file is still
    /// served, and the caller decides to try again, to [`detach_lazy`](Self::detach_lazy) or to
    /// drop.
    pub fn stop(&mut self) -> Result<()> {
        if !self.detached {
            if self.is_ours() {
                mount::unmount(&self.path, Unmount::Plain)?;
            }
            self.detached = true;
            remove(&self.path, self.created.take());
        } else if !self.is_finished() {
            return Err(Error::Busy { path: self.path.clone() });
        }
        self.join();
        Ok(())
    }

    /// Takes the name away at once; who has the file open is served on until the last one closes
    /// (see [`is_finished`](Self::is_finished)), or the process ends.
    ///
    /// # Errors
    /// The unmount is refused.
    pub fn detach_lazy(&mut self) -> Result<()> {
        if !self.detached {
            if self.is_ours() {
                mount::unmount(&self.path, Unmount::Lazy)?;
            }
            self.detached = true;
            remove(&self.path, self.created.take());
        }
        Ok(())
    }

    /// Waits until the last user is gone; `false` when the time is over first.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.is_finished() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.join();
        true
    }

    /// Whether what is mounted at the path is what we mounted: somebody may have unmounted it, and
    /// mounted something else there.
    fn is_ours(&self) -> bool {
        match mount::mounted_at(&self.path) {
            Ok(entry) => entry.is_some_and(|entry| entry.id == self.mount),
            Err(_) => true,
        }
    }

    fn join(&mut self) {
        if self.session.take().is_some_and(|session| session.join().is_err()) {
            tracing::warn!("a FUSE thread panicked");
        }
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        if self.stop().is_ok() || self.detached {
            return;
        }
        if self.is_ours()
            && let Err(error) = mount::unmount(&self.path, Unmount::Abort)
        {
            tracing::warn!(%error, "the FUSE file stays mounted");
            return;
        }
        self.detached = true;
        remove(&self.path, self.created.take());
        self.join();
    }
}

/// The size that the kernel goes by, which `stat` does not tell.
fn size_in_kernel(path: &Path) -> Result<u64> {
    let ask = || fs::File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    let size = apart(ask).and_then(|size| size);
    size.map_err(|error| Error::system("ask the size of", path, error))
}

/// Takes a mount away again unless it is kept.
struct Unmounter<'a>(Option<&'a Path>);

impl Unmounter<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unmounter<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(|path| mount::unmount(path, Unmount::Abort)) {
            tracing::warn!(%error, "a failed mount stays");
        }
    }
}

/// Creates the file unless it is there; tells device and inode of a created one.
fn create(path: &Path) -> Result<Option<(u64, u64)>> {
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    }
    let failed = |error| Error::system("create", path, error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            let data = file.metadata().map_err(failed)?;
            Ok(Some((data.dev(), data.ino())))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Removes the file if it is still the empty one that was created here.
fn remove(path: &Path, created: Option<(u64, u64)>) {
    let Some(created) = created else { return };
    let same = fs::symlink_metadata(path)
        .is_ok_and(|data| (data.dev(), data.ino()) == created && data.len() == 0);
    if same && let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "the file stays");
    }
}

/// Memory reclaim from this thread, and from those it makes, must not wait for our own file (D7).
pub(crate) fn io_flusher() {
    if let Err(why) = ploop_io::protect_thread() {
        tracing::debug!("{why}");
    }
}
