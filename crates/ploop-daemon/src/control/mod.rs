//! The control socket of a server: varlink, NUL-terminated JSON on AF_UNIX.
//!
//! | part | what |
//! |---|---|
//! | [`wire`] | messages and their limits |
//! | [`server`] | accepts clients, one thread each, and calls [`Methods`] |
//! | `places` | how many, and whose place is given to others |
//! | [`client`] | what the tool uses |
//! | [`types`] | parameters and replies of `org.ploop.Disk` |
//! | [`fuzz`] | any bytes from a client |

pub mod client;
pub mod fuzz;
mod places;
pub mod server;
pub mod types;
pub mod wire;

pub use client::Client;
pub use server::{Methods, Server};

/// Name of the interface.
pub const INTERFACE: &str = "org.ploop.Disk";
/// The interface as a varlink client wants it.
pub const DESCRIPTION: &str = include_str!("org.ploop.Disk.varlink");
/// The service interface every varlink server has.
pub const SERVICE: &str = "org.varlink.service";
/// Its description.
pub const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

#[cfg(test)]
mod tests {
    use super::DESCRIPTION;
    use crate::Code;

    #[test]
    fn every_exit_code_is_an_error_of_the_interface_and_the_reverse() {
        for code in Code::ALL {
            let line = format!("error {} (", code.error_name());
            assert!(DESCRIPTION.contains(&line), "{line} is missing");
        }
        let errors = DESCRIPTION.lines().filter_map(|line| line.strip_prefix("error "));
        for error in errors {
            let name = error.split(' ').next().unwrap();
            assert!(Code::from_error_name(name).is_some(), "{name} has no code");
        }
    }
}
