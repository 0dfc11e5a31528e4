//! Where to listen: `unix:PATH` or `tcp:HOST:PORT`.

use crate::error::{Error, Result};
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The port of NBD.
pub const DEFAULT_PORT: u16 = 10809;
/// Longest path of a unix socket, without its end.
const MAX_PATH: usize = 107;

/// An address to listen on. Its `Display` is the form of the ready line (T3).
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum NbdAddr {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An IP address and a port; port 0 lets the system choose.
    Tcp(SocketAddr),
}

impl NbdAddr {
    /// Reads `unix:PATH`, `tcp:HOST:PORT`, `tcp:HOST`, `tcp:[V6]:PORT`. A host name is looked up,
    /// and loopback addresses of it are preferred.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::Address { text: text.into(), why: why.into() };
        match text.split_once(':') {
            Some(("unix", "")) => Err(bad("no path")),
            Some(("unix", path)) if path.len() > MAX_PATH => {
                Err(bad(&format!("the path has {} bytes, at most {MAX_PATH} fit", path.len())))
            }
            Some(("unix", path)) if path.contains('\0') => Err(bad("a NUL in the path")),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp", "")) => Err(bad("no host")),
            Some(("tcp", rest)) => resolve(rest).map(Self::Tcp).map_err(|why| bad(&why)),
            _ => Err(bad("neither unix nor tcp")),
        }
    }

    /// Whether only this host can reach it (T3).
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(addr) => addr.ip().is_loopback(),
        }
    }

    /// The form clients take (`nbd+unix:///?socket=PATH`, `nbd://IP:PORT`), with the export's name.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        let export = percent(export, false);
        match self {
            Self::Unix(path) => {
                format!("nbd+unix:///{export}?socket={}", percent(&path.to_string_lossy(), true))
            }
            Self::Tcp(addr) => format!("nbd://{addr}/{export}"),
        }
    }
}

fn percent(text: &str, slash: bool) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || (slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn resolve(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(addr);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            (host, port.parse::<u16>().map_err(|_| format!("`{port}` is not a port"))?)
        }
        None => (text, DEFAULT_PORT),
    };
    let found = (host, port).to_socket_addrs().map_err(|e| format!("`{host}`: {e}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(|a| (!a.ip().is_loopback(), a.is_ipv6()));
    found.first().copied().ok_or_else(|| format!("`{host}` has no address"))
}

impl fmt::Display for NbdAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}

impl FromStr for NbdAddr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_display() {
        for text in ["unix:/run/a b.sock", "tcp:127.0.0.1:0", "tcp:[::1]:10809"] {
            assert_eq!(NbdAddr::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn short_forms() {
        let show = |t: &str| NbdAddr::parse(t).unwrap().to_string();
        assert_eq!(show("tcp:127.0.0.1"), "tcp:127.0.0.1:10809");
        assert_eq!(show("tcp:::1"), "tcp:[::1]:10809");
        assert_eq!(show("tcp:[::1]"), "tcp:[::1]:10809");
    }

    #[test]
    fn what_is_no_address() {
        for text in ["", "unix:", "tcp:", "udp:x:1", "/a/path", "tcp:127.0.0.1:port"] {
            assert!(matches!(NbdAddr::parse(text), Err(Error::Address { .. })), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        let message = NbdAddr::parse(&long).unwrap_err().to_string();
        assert!(message.contains("108 bytes, at most 107"), "{message}");
    }

    #[test]
    fn local_or_not() {
        assert!(NbdAddr::parse("unix:/x").unwrap().is_local());
        assert!(NbdAddr::parse("tcp:127.1.2.3:1").unwrap().is_local());
        assert!(!NbdAddr::parse("tcp:0.0.0.0:1").unwrap().is_local());
        assert!(!NbdAddr::parse("tcp:[::]:1").unwrap().is_local());
    }

    #[test]
    fn uris() {
        let unix = NbdAddr::parse("unix:/run/a b").unwrap();
        assert_eq!(unix.uri("x/y"), "nbd+unix:///x%2Fy?socket=/run/a%20b");
        assert_eq!(NbdAddr::parse("tcp:[::1]:7").unwrap().uri(""), "nbd://[::1]:7/");
    }
}
