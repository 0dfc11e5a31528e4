//! NBD and vhost-user sockets, FUSE files, the loop device and its partition: made and taken away
//! outside the data path (D8).

use super::kernel_nbd::{self, KernelNbd};
use super::link::{Links, tell_udev};
use super::means;
use super::methods::Ending;
use super::nbd::Nbd;
use super::partition::{self, Partition};
use super::session::{MakeFront, Session};
use super::spec::{Export, ServeSpec};
use super::ublk::{self, Traits};
use super::vhost::Vhost;
use crate::control::types::ExportCall;
use crate::failure::OrFail;
use crate::registry::Claim;
use crate::{Code, Failure, Result};
use ploop_engine::{FrontEnd, Limits};
use ploop_fuse::{FuseFront, FuseOptions, FuseQueues, FuseServer, LoopDevice, LoopOptions};
use ploop_nbd::ExportInfo;
use ploop_nbd::kernel::{self, NbdDevice};
use ploop_ublk::UblkDevice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was exported.
#[derive(Default)]
pub struct Exports {
    nbd: Option<Nbd>,
    vhost: Vhost,
    queues: Option<FuseQueues>,
    files: Vec<FuseServer>,
    pub(super) loop_file: Option<FuseServer>,
    pub(super) device: Option<LoopDevice>,
    pub(super) partition: Option<Partition>,
    ublk: Option<UblkDevice>,
    kernel: Option<KernelNbd>,
    /// The kernel's NBD client makes the block device.
    by_kernel: bool,
    /// On the ublk device, found by the kernel; goes with it.
    ublk_partition: Option<PathBuf>,
    words: Vec<String>,
    /// Names of the block device.
    links: Option<Links>,
    /// NBD addresses that came when the disk was served already.
    added: Vec<Nbd>,
}

impl Exports {
    /// What the queues need before they start: NBD listens already, and every queue gets the front
    /// ends of its exports.
    ///
    /// # Errors
    /// An address is taken, or there is no memory.
    pub fn prepare(
        &mut self,
        spec: &ServeSpec,
        limits: Limits,
        queues: usize,
        traits: Traits,
    ) -> Result<Vec<Vec<MakeFront>>> {
        let mut nbd = Nbd::bind(spec, limits)?;
        self.ublk = ublk::open(spec, limits, traits)?;
        self.by_kernel = self.kernel_nbd(spec, traits)?;
        if self.by_kernel {
            nbd.adopts();
        }
        let mut fronts = nbd.fronts(limits, queues)?;
        self.nbd = Some(nbd);
        fronts.resize_with(queues, Vec::new);
        self.vhost = Vhost::bind(spec, limits, traits, &mut fronts)?;
        let block = self.ublk.is_some() || self.by_kernel;
        let over_loop = spec.exports.iter().any(|export| match export {
            Export::Loop => true,
            Export::Ublk { or_loop, .. } => *or_loop && !block,
            _ => false,
        });
        if over_loop || spec.exports.iter().any(|export| matches!(export, Export::Fuse { .. })) {
            means::of_a_file(over_loop)?;
            let made = FuseQueues::new(limits, queues);
            let (queues, made) = made.or_fail(Code::System, "memory for FUSE requests")?;
            self.queues = Some(queues);
            for (fronts, front) in fronts.iter_mut().zip(made) {
                fronts.push(maker(front));
            }
        }
        if let Some(device) = &mut self.ublk {
            fronts = ublk::join(device, fronts, queues)?;
        }
        Ok(fronts)
    }

    /// Makes them, after [`Exports::prepare`] and when the queues run. After an error:
    /// [`Exports::remove`].
    ///
    /// # Errors
    /// One cannot be made.
    pub fn make(
        &mut self,
        spec: &ServeSpec,
        session: &Session,
        claim: &Claim,
        traits: Traits,
    ) -> Result<()> {
        for export in &spec.exports {
            match export {
                Export::Nbd { .. } | Export::VhostUser { .. } => {}
                Export::Fuse { file } => {
                    let server = self.mount(file, session)?;
                    self.words.push(format!("fuse {}", file.display()));
                    self.files.push(server);
                }
                Export::Ublk { .. } if self.ublk.is_some() => self.start_ublk(session)?,
                Export::Ublk { .. } | Export::KernelNbd if self.by_kernel => {
                    self.start_kernel(spec, session, traits)?;
                }
                Export::KernelNbd => {}
                Export::Loop | Export::Ublk { .. } => self.attach(spec, session, claim)?,
            }
        }
        self.vhost.start()?;
        self.nbd.as_mut().map_or(Ok(()), Nbd::start)
    }

    /// Whether the kernel's NBD client is to make the block device.
    fn kernel_nbd(&self, spec: &ServeSpec, traits: Traits) -> Result<bool> {
        let asked = spec.exports.contains(&Export::KernelNbd);
        let auto =
            spec.exports.iter().any(|export| matches!(export, Export::Ublk { or_loop: true, .. }))
                && self.ublk.is_none();
        if asked || auto {
            match NbdDevice::probe() {
                Ok(()) => return Ok(true),
                Err(error) if asked => {
                    return Err(Failure::from(error).hint(means::another_device()));
                }
                Err(error) => tracing::info!("{error}; a loop device is used instead"),
            }
        }
        let identity = kernel_nbd::identity(traits, spec.read_only);
        match identity.and_then(|identity| kernel::waiting_for(&identity)) {
            Some(device) => Err(ublk::waits(&device, "nbd")),
            None => Ok(false),
        }
    }

    fn start_kernel(&mut self, spec: &ServeSpec, session: &Session, traits: Traits) -> Result<()> {
        let Some(nbd) = &self.nbd else { return Ok(()) };
        let limits = session.device().limits();
        let made = KernelNbd::connect(spec, limits, traits, nbd)?;
        let path = made.path().to_owned();
        let found = made.partition.is_some();
        self.kernel = Some(made);
        if !found {
            match Partition::add_first(&path, u64::from(limits.block)) {
                Ok(partition) => self.partition = partition,
                Err(failure) => tracing::warn!("{failure}"),
            }
        }
        Ok(())
    }

    fn attach(&mut self, spec: &ServeSpec, session: &Session, claim: &Claim) -> Result<()> {
        if self.device.is_some() {
            return Err(Failure::parameter("one loop device is enough"));
        }
        let file = claim.path("img");
        let limits = session.device().limits();
        let server = self.mount(&file, session)?;
        self.loop_file = Some(server);
        let options = LoopOptions {
            read_only: limits.read_only,
            block_size: limits.block,
            direct_io: true,
            autoclear: !spec.to_mount,
        };
        let device = LoopDevice::attach(&file, options).map_err(|error| {
            Failure::new(Code::Device, format!("loop device: {error}"))
                .hint("it needs root, and the loop module")
        })?;
        let path = device.path().to_owned();
        self.device = Some(device);
        match Partition::add_first(&path, u64::from(limits.block)) {
            Ok(partition) => self.partition = partition,
            // The bare device is of use without it.
            Err(failure) => tracing::warn!("{failure}"),
        }
        Ok(())
    }

    fn mount(&self, file: &Path, session: &Session) -> Result<FuseServer> {
        let Some(queues) = &self.queues else {
            return Err(Failure::new(Code::Mount, "no queue was prepared for FUSE files"));
        };
        let limits = session.device().limits();
        let top = session.top();
        let allocated =
            Some(Arc::new(move || top.allocated()) as Arc<dyn Fn() -> u64 + Send + Sync>);
        let options =
            FuseOptions { read_only: limits.read_only, allocated, ..FuseOptions::default() };
        FuseServer::mount(file, queues, limits, options)
            .map_err(|error| Failure::new(Code::Mount, format!("FUSE file: {error}")))
    }

    fn start_ublk(&mut self, session: &Session) -> Result<()> {
        let Some(device) = &mut self.ublk else { return Ok(()) };
        device.start()?;
        let block = u64::from(session.device().limits().block);
        self.ublk_partition = partition::found(device.path(), block);
        if self.ublk_partition.is_none() {
            match Partition::add_first(device.path(), block) {
                Ok(partition) => self.partition = partition,
                Err(failure) => tracing::warn!("{failure}"),
            }
        }
        Ok(())
    }

    /// Exports the disk at one more NBD address; returns its ready line.
    ///
    /// # Errors
    /// The address is taken or not of this host; or as of any pause.
    pub fn add_nbd(&mut self, session: &mut Session, call: &ExportCall) -> Result<String> {
        let limits = session.device().limits();
        let export = ExportInfo {
            name: call.name.clone().unwrap_or_default(),
            description: session.target().display().to_string().chars().take(256).collect(),
            read_only: limits.read_only || call.read_only.unwrap_or(false),
            limits,
        };
        let mut nbd = Nbd::at(&call.address, export)?;
        let fronts = nbd.fronts(limits, session.device().queues())?;
        session.join(fronts)?;
        if let Err(failure) = nbd.start() {
            // Its front ends are on the queues already.
            nbd.leave();
            return Err(failure);
        }
        let word = nbd.words().first().cloned().unwrap_or_default();
        self.added.push(nbd);
        Ok(word)
    }

    /// Takes an NBD address away that was added.
    ///
    /// # Errors
    /// There is none such (40), or it has clients and may not be taken from them (46).
    pub fn remove_nbd(&mut self, address: &str, force: bool) -> Result<()> {
        let word = format!("nbd {address}");
        let Some(at) = self.added.iter().position(|nbd| nbd.words().contains(&word)) else {
            let message = format!("{address} is not an export that was added to this disk");
            return Err(Failure::new(Code::NotMounted, message)
                .hint("`ploop list --long` shows all; those of its start end with the server"));
        };
        let clients = self.added[at].clients();
        if clients > 0 && !force {
            let message = format!("{address} has {clients} clients");
            return Err(Failure::new(Code::DeviceBusy, message)
                .hint("--force cuts them off when their requests are answered"));
        }
        self.added.remove(at).leave();
        Ok(())
    }

    /// Gives the block device its name.
    ///
    /// # Errors
    /// Another disk has it, or there is no place for links.
    pub fn link(&mut self, name: Option<&str>) -> Result<()> {
        let Some(device) = self.device().map(Path::to_owned) else { return Ok(()) };
        if let Some(name) = name {
            self.links = Some(Links::make(name, &device, self.partition())?);
        }
        tell_udev(&device);
        Ok(())
    }

    /// How the block device is made.
    #[must_use]
    pub fn transport(&self) -> Option<&'static str> {
        let ublk = self.ublk.as_ref().map(|_| "ublk");
        let kernel = self.kernel.as_ref().map(|_| "nbd");
        ublk.or(kernel).or_else(|| self.device.as_ref().map(|_| "loop"))
    }

    /// The ready lines: NBD, vhost-user, then files.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let nbd = self.nbd.as_ref().map(Nbd::words).unwrap_or_default();
        let added = self.added.iter().flat_map(Nbd::words);
        nbd.iter().chain(self.vhost.words()).chain(&self.words).chain(added).cloned().collect()
    }

    /// The block device.
    #[must_use]
    pub fn device(&self) -> Option<&Path> {
        let ublk = self.ublk.as_ref().map(UblkDevice::path);
        let kernel = self.kernel.as_ref().map(KernelNbd::path);
        ublk.or(kernel).or_else(|| self.device.as_ref().map(LoopDevice::path))
    }

    /// The partition's device.
    #[must_use]
    pub fn partition(&self) -> Option<&Path> {
        let ublk = self.ublk_partition.as_deref();
        let kernel = self.kernel.as_ref().and_then(|device| device.partition.as_deref());
        ublk.or(kernel).or_else(|| self.partition.as_ref().map(Partition::path))
    }

    /// Why the server cannot end so, whoever has the device.
    #[must_use]
    pub fn refuses(&self, how: Ending) -> Option<Failure> {
        match how {
            Ending::Force | Ending::Plain => None,
            Ending::Keep if self.ublk.as_ref().is_some_and(UblkDevice::can_wait) => None,
            Ending::Keep => Some(
                Failure::new(Code::Device, "the device cannot wait for another server")
                    .hint("a ublk device can, of Linux 6.16 or newer"),
            ),
        }
    }

    /// The device has grown: tells whoever uses it.
    ///
    /// # Errors
    /// The kernel cannot change the size of the block device: it has it when attached anew.
    pub fn resized(&mut self, bytes: u64) -> Result<()> {
        self.nbd.iter().chain(&self.added).for_each(|nbd| nbd.set_size(bytes));
        self.vhost.set_size(bytes);
        let old = |error: String| {
            let message = format!("the disk has grown, its block device has not: {error}");
            Failure::new(Code::Device, message).hint("detach and attach it to see the new size")
        };
        // Before the loop device: it asks the file for its size.
        for file in self.files.iter().chain(&self.loop_file) {
            file.set_size(bytes).map_err(|error| old(error.to_string()))?;
        }
        if let Some(device) = &self.device {
            device.update_size().map_err(|error| old(error.to_string()))?;
        }
        if let Some(device) = &mut self.kernel {
            device.update_size(bytes).map_err(|error| old(error.to_string()))?;
        }
        if let Some(device) = &mut self.ublk {
            device.update_size(bytes).map_err(|error| old(Failure::from(error).to_string()))?;
        }
        Ok(())
    }

    /// Takes them away while the queues still run: caches above write back through them. The
    /// device has given up (T17) and, unless by force, is released. Nobody is waited for.
    pub fn remove(&mut self, how: Ending) {
        let keep = how == Ending::Keep;
        if keep && let Some(links) = self.links.take() {
            links.keep();
        }
        self.links = None;
        self.nbd.iter_mut().chain(&mut self.added).for_each(Nbd::stop);
        self.nbd = None;
        self.added.clear();
        self.vhost.stop();
        let partition = self.partition.take().filter(|_| !keep);
        // These two devices stay when they are free, with the partitions they had.
        let stays = self.device.as_ref().map(LoopDevice::path);
        if let Some(device) = stays.or(self.kernel.as_ref().map(KernelNbd::path)) {
            partition::delete_all(device);
        } else if let Some(partition) = partition
            && let Err(failure) = partition.remove()
        {
            tracing::warn!("{failure}");
        }
        if let Some(device) = self.kernel.take()
            && let Err(failure) = device.disconnect()
        {
            tracing::error!("{failure}");
        }
        if let Some(device) = &mut self.ublk
            && let Err(error) = if keep { device.leave() } else { device.stop() }
        {
            tracing::error!("{}", Failure::from(error));
        }
        if let Some(device) = self.device.take() {
            let path = device.path().to_owned();
            if let Err(error) = device.detach() {
                tracing::error!("{}: {error}", path.display());
            }
        }
        for server in self.loop_file.take().into_iter().chain(self.files.drain(..)) {
            unmount(server);
        }
    }
}

impl Drop for Exports {
    /// After the queues have ended: nobody has the ublk device's file open any more.
    fn drop(&mut self) {
        if let Some(device) = &mut self.ublk {
            device.delete();
        }
    }
}

/// Cuts off whoever has the file open.
fn unmount(mut server: FuseServer) {
    let Err(error) = server.stop() else { return };
    tracing::warn!("{error}: its users get errors now");
    if let Err(error) = server.detach_lazy() {
        tracing::warn!("{error}");
    }
}

fn maker(front: FuseFront) -> MakeFront {
    Box::new(move |waker| {
        front.set_waker(waker);
        Ok(Box::new(front) as Box<dyn FrontEnd>)
    })
}
