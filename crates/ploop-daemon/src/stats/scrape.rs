//! `--metrics ADDR`: OpenMetrics text over HTTP, on threads of its own, for few clients at a time.

use super::http::{self, Answer, Limits};
use super::prometheus::CONTENT_TYPE;
use crate::control::Methods;
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_nbd::{Listener, NbdAddr};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients served at a time; more are cut off.
pub const MAX_CLIENTS: usize = 8;
/// The page with the metrics.
pub const PATH: &str = "/metrics";

/// An address of `--metrics`: `unix:PATH` or `tcp:HOST:PORT`.
///
/// # Errors
/// It is not one.
pub fn address(text: &str) -> Result<NbdAddr> {
    let wanted = "unix:PATH or tcp:HOST:PORT, as in tcp:127.0.0.1:9100";
    let bad = || Failure::parameter(format!("--metrics `{text}` is no address")).hint(wanted);
    if let Some(tcp) = text.strip_prefix("tcp:") {
        // No port is the port of NBD: nobody means that here.
        let name = tcp.split_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !port.is_empty() && !port.contains(':')
        });
        if tcp.parse::<SocketAddr>().is_err() && !name {
            return Err(bad());
        }
    }
    NbdAddr::parse(text).map_err(|_| bad())
}

/// A server that listens and, once started, answers. Dropped, it listens no more.
pub struct Scrape {
    listener: Arc<Listener>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    limits: Limits,
}

impl Scrape {
    /// Listens; clients wait until [`Scrape::start`].
    ///
    /// # Errors
    /// The address is taken, not of this host, or not loopback without `insecure` (T3).
    pub fn bind(address: &NbdAddr, insecure: bool) -> Result<Self> {
        let listener = Listener::bind(address, insecure)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).or_fail(Code::System, "eventfd")?;
        let (listener, stop) = (Arc::new(listener), Arc::new(stop));
        Ok(Self { listener, stop, thread: None, limits: Limits::default() })
    }

    /// Sets other limits, before the start.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// As in the ready line, with the real port.
    #[must_use]
    pub fn word(&self) -> String {
        format!("metrics {}", self.listener.addr())
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// No thread.
    pub fn start(&mut self, methods: Arc<dyn Methods>) -> Result<()> {
        let (listener, stop) = (Arc::clone(&self.listener), Arc::clone(&self.stop));
        let limits = self.limits;
        let run = move || accept_all(&listener, &stop, limits, &methods);
        let thread = std::thread::Builder::new().name("ploop-metrics".into()).spawn(run);
        self.thread = Some(thread.or_fail(Code::System, "cannot start the metrics thread")?);
        Ok(())
    }
}

impl Drop for Scrape {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It fails only when it has a value to be read already.
            let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
            let _ = thread.join();
        }
    }
}

fn accept_all(listener: &Listener, stop: &OwnedFd, limits: Limits, methods: &Arc<dyn Methods>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            return;
        }
        match polled.and_then(|_| listener.accept()) {
            Ok(Some((fd, _))) => serve(fd, &clients, limits, methods),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            // Out of descriptors or the like: do not spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn serve(fd: OwnedFd, clients: &Arc<AtomicUsize>, limits: Limits, methods: &Arc<dyn Methods>) {
    if clients.load(Ordering::SeqCst) >= MAX_CLIENTS {
        return;
    }
    clients.fetch_add(1, Ordering::SeqCst);
    let (methods, count) = (Arc::clone(methods), Arc::clone(clients));
    let run = move || {
        if let Err(error) = one(fd, limits, &*methods) {
            tracing::debug!(%error, "a client of the metrics was dropped");
        }
        count.fetch_sub(1, Ordering::SeqCst);
    };
    let thread = std::thread::Builder::new().name("ploop-scrape".into()).spawn(run);
    if thread.is_err() {
        clients.fetch_sub(1, Ordering::SeqCst);
    }
}

fn one(fd: OwnedFd, limits: Limits, methods: &dyn Methods) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&fd, false)?;
    let mut stream = Socket(fd);
    http::serve(&mut stream, limits, |path| page(path, methods))
}

fn page(path: &str, methods: &dyn Methods) -> Answer {
    if path != PATH {
        return Answer::words("404 Not Found", format!("the metrics are at {PATH}"));
    }
    match methods.metrics() {
        Ok(reply) => Answer::page(CONTENT_TYPE, reply.text),
        Err(failure) => Answer::words("503 Service Unavailable", failure.message),
    }
}

/// A blocking socket of either family.
struct Socket(OwnedFd);

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (_, got) = recv(&self.0, buf, RecvFlags::empty())?;
        Ok(got)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, buf, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl http::Stream for Socket {
    fn limit(&self, read: Duration, write: Duration) -> io::Result<()> {
        // Zero would mean no limit.
        let some = |time: Duration| Some(time.max(Duration::from_millis(1)));
        set_socket_timeout(&self.0, Timeout::Recv, some(read))?;
        set_socket_timeout(&self.0, Timeout::Send, some(write))?;
        Ok(())
    }

    fn end(&self) -> io::Result<()> {
        Ok(shutdown(&self.0, Shutdown::Write)?)
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_name_a_port() {
        for good in ["unix:/run/m", "tcp:127.0.0.1:9100", "tcp:[::1]:0", "tcp:localhost:9100"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "9100",
            "unix:",
            "tcp:",
            "tcp:127.0.0.1",
            "tcp:localhost",
            "tcp:::1",
            "tcp:127.0.0.1:x",
            "tcp::9100",
            "http://127.0.0.1:9100",
        ] {
            let failure = address(bad).unwrap_err();
            assert!(failure.message.contains("--metrics"), "{bad}: {failure}");
        }
    }
}
