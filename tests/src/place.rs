//! Where a process runs: on the loopback interface, or in a network namespace with an address of its own.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// A place for processes.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Option<String>,
    address: IpAddr,
}

impl Place {
    /// The loopback interface of the test's own namespace.
    pub fn loopback() -> Self {
        Self {
            namespace: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A namespace that exists, and the address there.
    pub(crate) fn in_namespace(name: &str, address: Ipv4Addr) -> Self {
        Self {
            namespace: Some(name.to_owned()),
            address: address.into(),
        }
    }

    /// The address to listen on.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A command that runs here; `account` is a user and a group to run it as. The process is the
    /// program itself, so signals reach it.
    pub(crate) fn command(
        &self,
        program: impl AsRef<OsStr>,
        account: Option<(u32, u32)>,
    ) -> Command {
        let Some(namespace) = &self.namespace else {
            let mut command = Command::new(program);
            if let Some((uid, gid)) = account {
                command.uid(uid).gid(gid);
            }
            return command;
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        if let Some((uid, gid)) = account {
            // Only root may enter.
            command.args(["setpriv", "--clear-groups"]);
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"));
        }
        command.arg(program);
        command
    }
}
