//! The NBD server of a disk: its addresses, and a front end on each queue.

use super::session::MakeFront;
use super::spec::{Export, ServeSpec};
use crate::{Code, Failure, Result};
use ploop_engine::{FrontEnd, Limits};
use ploop_nbd::{Adopter, Error, ExportInfo, NbdAddr, NbdFront, NbdOptions, NbdServer};

/// The listening side.
pub struct Nbd {
    server: NbdServer,
    words: Vec<String>,
    /// Clients come without an address too.
    adopts: bool,
}

impl Nbd {
    /// Listens on every address of the spec. Clients wait until [`Nbd::start`].
    ///
    /// # Errors
    /// An address is taken, or not of this host.
    pub fn bind(spec: &ServeSpec, limits: Limits) -> Result<Self> {
        let options = NbdOptions { insecure: spec.insecure_listen, ..NbdOptions::default() };
        let mut nbd = Self { server: NbdServer::new(options), words: Vec::new(), adopts: false };
        for export in &spec.exports {
            let Export::Nbd { address, name } = export else { continue };
            let export = ExportInfo {
                name: name.clone(),
                description: spec.disk.display().to_string().chars().take(256).collect(),
                read_only: spec.read_only,
                limits,
            };
            nbd.listen(address, export)?;
        }
        Ok(nbd)
    }

    /// One address, for a disk that is served already.
    ///
    /// # Errors
    /// As [`Nbd::bind`].
    pub fn at(address: &str, export: ExportInfo) -> Result<Self> {
        let server = NbdServer::new(NbdOptions::default());
        let mut nbd = Self { server, words: Vec::new(), adopts: false };
        nbd.listen(address, export)?;
        Ok(nbd)
    }

    fn listen(&mut self, address: &str, export: ExportInfo) -> Result<()> {
        let address = self.server.bind(&NbdAddr::parse(address)?, export)?;
        self.words.push(format!("nbd {address}"));
        Ok(())
    }

    /// Front ends are wanted for clients without an address.
    pub fn adopts(&mut self) {
        self.adopts = true;
    }

    /// For clients that need no handshake.
    #[must_use]
    pub fn adopter(&self) -> Adopter {
        self.server.adopter()
    }

    /// The front ends: one for each queue, none when no client can come.
    ///
    /// # Errors
    /// No memory.
    pub fn fronts(&mut self, limits: Limits, queues: usize) -> Result<Vec<Vec<MakeFront>>> {
        if self.words.is_empty() && !self.adopts {
            return Ok(Vec::new());
        }
        (0..queues).map(|_| Ok(vec![maker(self.server.front(limits)?)])).collect()
    }

    /// Takes clients.
    ///
    /// # Errors
    /// No thread or descriptor.
    pub fn start(&mut self) -> Result<()> {
        if self.words.is_empty() {
            return Ok(());
        }
        Ok(self.server.start()?)
    }

    /// Clients that come from now on see this size.
    pub fn set_size(&self, bytes: u64) {
        self.server.set_size(bytes);
    }

    /// Ends it though the disk stays: its clients are cut off when their requests are answered.
    pub fn leave(&mut self) {
        self.server.leave();
    }

    /// Clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.server.clients()
    }

    /// Takes no more clients and removes the socket files.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// The ready lines.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

fn maker(front: NbdFront) -> MakeFront {
    Box::new(move |waker| {
        front.set_waker(waker);
        Ok(Box::new(front) as Box<dyn FrontEnd>)
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Address { .. } | Error::NotLoopback { .. } | Error::TooLong { .. } => {
                Code::Parameter
            }
            Error::InUse { .. } => Code::Busy,
            Error::Io { .. } => Code::System,
        };
        Self::new(code, error.to_string())
    }
}
