//! The client side, for the tool.

use super::types::{
    Extent, InfoReply, MapCall, MapReply, MetricsReply, MountpointCall, StatReply, State, StopCall,
};
use super::wire::{Call, MAX_REPLY, Reply, Wire};
use super::{INTERFACE, SERVICE};
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a call that should be quick may take.
const QUICK: Duration = Duration::from_secs(60);

/// A connection to a server.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or it belongs to somebody else.
    pub fn connect(socket: &Path) -> Result<Self> {
        let what = format!("control socket {}", socket.display());
        let stream = UnixStream::connect(socket).or_fail(Code::Protocol, &what)?;
        let wire = Wire::new(stream, MAX_REPLY).or_fail(Code::Protocol, &what)?;
        Ok(Self { wire })
    }

    /// What is served.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn info(&mut self) -> Result<State> {
        self.call::<InfoReply>("Info", &json!({}), Some(QUICK)).map(|reply| reply.state)
    }

    /// Counters.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn stat(&mut self) -> Result<StatReply> {
        self.call("Stat", &json!({}), Some(QUICK))
    }

    /// Counters as OpenMetrics text.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn metrics(&mut self) -> Result<String> {
        self.call::<MetricsReply>("Metrics", &json!({}), Some(QUICK)).map(|reply| reply.text)
    }

    /// Stops the server; returns when the disk is closed, however long that takes.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn stop(&mut self, force: bool) -> Result<()> {
        let call = StopCall { force: Some(force) };
        self.call::<Value>("Stop", &call, None).map(drop)
    }

    /// Where the disk is stored, a part at a time; `each` gets the extents in order.
    ///
    /// # Errors
    /// The server's, of the connection, or of `each`.
    pub fn map(&mut self, mut each: impl FnMut(Extent) -> Result<()>) -> Result<()> {
        let mut next = Some(0);
        while let Some(offset_bytes) = next {
            let reply: MapReply = self.call("Map", &MapCall { offset_bytes }, Some(QUICK))?;
            for extent in reply.extents {
                each(extent)?;
            }
            if reply.next_bytes.is_some_and(|next| next <= offset_bytes) {
                return Err(Failure::new(Code::Protocol, "the server's map does not advance"));
            }
            next = reply.next_bytes;
        }
        Ok(())
    }

    /// Tells where the device is mounted.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn set_mountpoint(&mut self, mountpoint: Option<String>) -> Result<()> {
        let call = MountpointCall { mountpoint };
        self.call::<Value>("SetMountpoint", &call, Some(QUICK)).map(drop)
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<T> {
        let parameters = match serde_json::to_value(parameters) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let method = format!("{INTERFACE}.{method}");
        let call = Call { method: method.clone(), parameters, oneway: false, more: false };
        self.wire.send(&call).or_fail(Code::Protocol, format!("{method}: sending"))?;
        let message = self.wire.receive(timeout).or_fail(Code::Protocol, &method)?;
        let Some(message) = message else {
            return Err(Failure::new(Code::Protocol, format!("{method}: the server went away")));
        };
        let reply: Reply = serde_json::from_slice(&message)
            .or_fail(Code::Protocol, format!("{method}: bad reply"))?;
        match reply.error {
            None => serde_json::from_value(Value::Object(reply.parameters))
                .or_fail(Code::Protocol, format!("{method}: bad reply")),
            Some(error) => Err(failure(&method, &error, &reply.parameters)),
        }
    }
}

/// The failure an error reply stands for (T16).
fn failure(method: &str, error: &str, parameters: &Map<String, Value>) -> Failure {
    let own = error.strip_prefix(INTERFACE).and_then(|name| name.strip_prefix('.'));
    let code = own.and_then(Code::from_error_name);
    let text = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_owned);
    match code {
        Some(code) => {
            let message = text("message").unwrap_or_else(|| error.to_owned());
            Failure { hint: text("hint"), ..Failure::new(code, message) }
        }
        None => {
            let name = error.strip_prefix(SERVICE).unwrap_or(error);
            let message = format!("{method}: the server answered {name}");
            Failure::new(Code::Protocol, message).hint("it may be an older version: detach it")
        }
    }
}
