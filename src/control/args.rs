//! What a VMM must be told to plug a guest in: arguments of QEMU and cloud-hypervisor, an element of libvirt.
//!
//! The guest's memory must be shared with vmlan, or not a single frame can be read; so each form says that too.

use serde::Serialize;

use crate::control::identity::Macs;
use crate::control::plan::{Plan, Vm};
use crate::ports::guest::Role;

/// A virtual machine monitor.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Vmm {
    /// QEMU's command line.
    #[default]
    Qemu,
    /// cloud-hypervisor's command line.
    CloudHypervisor,
    /// An element of a libvirt domain.
    Libvirt,
}

impl Vmm {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Libvirt => "libvirt",
        }
    }
}

/// How to launch a guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Launch {
    /// The VM's name.
    pub vm: String,
    /// For which VMM this is.
    pub vmm: &'static str,
    /// The socket.
    pub socket: String,
    /// The hardware address.
    pub mac: String,
    /// The arguments; none for libvirt.
    pub args: Vec<String>,
    /// The element; libvirt's only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xml: Option<String>,
    /// What else there is to know.
    pub note: &'static str,
}

impl Launch {
    /// Says how to launch a VM of the plan.
    pub fn new(plan: &Plan, vm: &Vm, vmm: Vmm, macs: &Macs) -> Self {
        let mac = macs.vm(&vm.name).to_string();
        let mtu = plan
            .find_network(&vm.network)
            .map_or(1500, |network| network.mtu);
        let socket = vm.socket.display().to_string();
        let (args, xml, note) = match vmm {
            Vmm::Qemu => (
                qemu(&vm.name, &socket, vm.role, &mac, mtu),
                None,
                "the guest's memory, -m, must have the size of mem0; change both together",
            ),
            Vmm::CloudHypervisor => (
                cloud_hypervisor(&socket, vm.role, &mac, mtu),
                None,
                "the size of the memory is free; shared=on is not",
            ),
            Vmm::Libvirt => (
                Vec::new(),
                Some(libvirt(&socket, vm.role, &mac, mtu)),
                "the domain needs the memoryBacking element too",
            ),
        };
        Self {
            vm: vm.name.clone(),
            vmm: vmm.name(),
            socket,
            mac,
            args,
            xml,
            note,
        }
    }

    /// Returns the arguments as a shell takes them, or the element.
    pub fn text(&self) -> String {
        match &self.xml {
            Some(xml) => xml.clone(),
            None => self
                .args
                .iter()
                .map(|arg| quoted(arg))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }
}

fn qemu(name: &str, socket: &str, role: Role, mac: &str, mtu: u16) -> Vec<String> {
    // QEMU reads a comma as the end of a value, and a doubled one as itself.
    let socket = socket.replace(',', ",,");
    let side = match role {
        Role::Server => "reconnect=1",
        Role::Client => "server=on,wait=off",
    };
    // Identifiers of QEMU begin with a letter and hold letters, digits, dashes, dots and underscores: any name of ours fits behind a prefix.
    let mtu = if mtu == 1500 {
        String::new()
    } else {
        format!(",host_mtu={mtu}")
    };
    [
        "-m",
        "1G",
        "-object",
        "memory-backend-memfd,id=mem0,size=1G,share=on",
        "-machine",
        "memory-backend=mem0",
        "-chardev",
        &format!("socket,id=vmlan-{name},path={socket},{side}"),
        "-netdev",
        &format!("vhost-user,id=net-{name},chardev=vmlan-{name},queues=1"),
        "-device",
        &format!("virtio-net-pci,netdev=net-{name},mac={mac}{mtu}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn cloud_hypervisor(socket: &str, role: Role, mac: &str, mtu: u16) -> Vec<String> {
    // The mode is that of cloud-hypervisor's side: it is the client of a socket on which vmlan listens.
    let side = match role {
        Role::Server => "client",
        Role::Client => "server",
    };
    let socket = if socket.contains(',') {
        format!("\"{socket}\"")
    } else {
        socket.to_owned()
    };
    let mtu = if mtu == 1500 {
        String::new()
    } else {
        format!(",mtu={mtu}")
    };
    [
        "--memory",
        "size=1G,shared=on",
        "--net",
        &format!("vhost_user=true,socket={socket},mac={mac},vhost_mode={side}{mtu}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn libvirt(socket: &str, role: Role, mac: &str, mtu: u16) -> String {
    // libvirt's mode, too, is that of the VMM's side.
    let (side, reconnect) = match role {
        Role::Server => ("client", "\n    <reconnect enabled='yes' timeout='1'/>\n  "),
        Role::Client => ("server", ""),
    };
    let source = format!(
        "<source type='unix' path='{}' mode='{side}'",
        escaped(socket)
    );
    let source = if reconnect.is_empty() {
        format!("{source}/>")
    } else {
        format!("{source}>{reconnect}</source>")
    };
    let mtu = if mtu == 1500 {
        String::new()
    } else {
        format!("\n  <mtu size='{mtu}'/>")
    };
    format!(
        "<!-- the domain needs shared memory:\n     \
         <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking> -->\n\
         <interface type='vhostuser'>\n  <mac address='{mac}'/>\n  {source}\n  <model type='virtio'/>{mtu}\n</interface>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&apos;")
}

/// Quotes a word for a POSIX shell where it needs it.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.,=/:+@%".contains(&b));
    if plain {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_are_not_ends_of_values() {
        assert!(
            qemu("a", "/x,y/a.sock", Role::Server, "m", 1500)[7]
                .contains("path=/x,,y/a.sock,reconnect=1")
        );
        assert!(
            cloud_hypervisor("/x,y/a.sock", Role::Server, "m", 1500)[3]
                .contains("socket=\"/x,y/a.sock\",")
        );
    }

    #[test]
    fn the_mtu_is_told_where_it_is_not_the_usual_one() {
        assert!(qemu("a", "/a", Role::Client, "m", 9000)[11].ends_with("mac=m,host_mtu=9000"));
        assert!(libvirt("/a", Role::Client, "m", 9000).contains("<mtu size='9000'/>"));
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("-m"), "-m");
        assert_eq!(quoted("path=/a b"), "'path=/a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
