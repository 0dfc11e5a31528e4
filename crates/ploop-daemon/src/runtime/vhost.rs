//! vhost-user sockets of a disk: a listening thread each, and front ends on the queues.

use super::session::MakeFront;
use super::spec::{Export, ServeSpec};
use super::ublk::Traits;
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_engine::{FrontEnd, Limits};
use ploop_nbd::{Listener, NbdAddr};
use ploop_vhost_user::{Identity, VhostFront, VhostServer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The vhost-user side of a disk.
#[derive(Default)]
pub struct Vhost {
    sockets: Vec<Socket>,
    words: Vec<String>,
}

struct Socket {
    server: VhostServer,
    /// Until it is started.
    listener: Option<Listener>,
    running: Option<(Arc<OwnedFd>, JoinHandle<()>)>,
}

/// What GET_ID says: `/dev/disk/by-id/virtio-...` in the guest.
fn identity(traits: Traits) -> Identity {
    let mut text = [0; 20];
    let name = format!("ploop{:015x}", traits.identity() >> 4);
    let len = name.len().min(text.len());
    text[..len].copy_from_slice(&name.as_bytes()[..len]);
    text
}

impl Vhost {
    /// Listens on every path of the spec, and puts front ends beside those of each queue. Monitors
    /// wait until [`Vhost::start`].
    ///
    /// # Errors
    /// A path is taken, or there is no memory.
    pub fn bind(
        spec: &ServeSpec,
        limits: Limits,
        traits: Traits,
        fronts: &mut [Vec<MakeFront>],
    ) -> Result<Self> {
        let mut all = Self::default();
        for export in &spec.exports {
            let Export::VhostUser { path } = export else { continue };
            let listener = Listener::bind(&NbdAddr::Unix(path.clone()), false)?;
            let (server, made) = VhostServer::new(limits, identity(traits), fronts.len())
                .map_err(|error| Failure::new(Code::System, error.to_string()))?;
            for (fronts, front) in fronts.iter_mut().zip(made) {
                fronts.push(maker(front));
            }
            all.sockets.push(Socket { server, listener: Some(listener), running: None });
            all.words.push(format!("vhost-user {}", path.display()));
        }
        Ok(all)
    }

    /// Takes monitors.
    ///
    /// # Errors
    /// No thread or descriptor.
    pub fn start(&mut self) -> Result<()> {
        for socket in &mut self.sockets {
            let Some(listener) = socket.listener.take() else { continue };
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            let wake = Arc::new(wake.or_fail(Code::System, "a vhost-user socket")?);
            let (server, stop) = (socket.server.clone(), Arc::clone(&wake));
            let thread = std::thread::Builder::new()
                .name("vhost-user".into())
                .spawn(move || listen(&listener, &server, &stop))
                .or_fail(Code::System, "a thread for vhost-user")?;
            socket.running = Some((wake, thread));
        }
        Ok(())
    }

    /// Who asks from now on sees this size.
    pub fn set_size(&self, bytes: u64) {
        self.sockets.iter().for_each(|socket| socket.server.set_size(bytes));
    }

    /// The ready lines.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Answers what was taken from the rings, lets the monitors go and removes the sockets. The
    /// queues still run.
    pub fn stop(&mut self) {
        for socket in self.sockets.drain(..) {
            socket.server.stop();
            let Some((wake, thread)) = socket.running else { continue };
            // Never full: it is written once.
            let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
            // A panic ends the process (F27).
            let _ = thread.join();
        }
    }
}

/// One monitor after the other.
fn listen(listener: &Listener, server: &VhostServer, stop: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if let Err(errno) = poll(&mut fds, None)
            && errno != rustix::io::Errno::INTR
        {
            tracing::error!(%errno, "a vhost-user socket takes no more monitors");
            return;
        }
        if fds[1].revents().contains(PollFlags::IN) {
            return;
        }
        match listener.accept() {
            Ok(None) => {}
            Ok(Some((monitor, _))) => serve(monitor, server, listener),
            Err(errno) => tracing::warn!(%errno, "a monitor could not be taken"),
        }
    }
}

fn serve(monitor: OwnedFd, server: &VhostServer, listener: &Listener) {
    let socket = UnixStream::from(monitor);
    let served = socket.set_nonblocking(false).map_err(|error| error.to_string());
    tracing::info!("a monitor has connected to {}", listener.addr());
    let served = served.and_then(|()| server.serve(socket).map_err(|error| error.to_string()));
    match served {
        Ok(()) => tracing::info!("the monitor of {} has gone", listener.addr()),
        Err(error) => tracing::warn!("the monitor of {} was let go: {error}", listener.addr()),
    }
}

fn maker(front: VhostFront) -> MakeFront {
    Box::new(move |waker| {
        front.set_waker(waker);
        Ok(Box::new(front) as Box<dyn FrontEnd>)
    })
}
