//! The sandbox's own `/etc`.

use std::net::Ipv4Addr;

/// Name of the sandbox's user.
pub(crate) const USER: &str = "sandbox";
/// Its home.
pub(crate) const HOME: &str = "/home/sandbox";
/// The sandbox's host name.
pub(crate) const HOSTNAME: &str = "sandbox";

/// Files of `/etc` that are written for each sandbox: `(name, content)`.
///
/// `name_server` answers questions for names, when the sandbox has a network.
pub(crate) fn files(
    (uid, gid): (u32, u32),
    name_server: Option<Ipv4Addr>,
) -> Vec<(&'static str, String)> {
    let resolv_conf = match name_server {
        Some(address) => format!("nameserver {address}\noptions timeout:6\n"),
        None => "# no network\n".to_owned(),
    };
    vec![
        (
            "passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                 {USER}:x:{uid}:{gid}:{USER}:{HOME}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("group", format!("root:x:0:\n{USER}:x:{gid}:\nnogroup:x:65534:\n")),
        (
            "hosts",
            format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n"),
        ),
        ("hostname", format!("{HOSTNAME}\n")),
        ("host.conf", "multi on\n".to_owned()),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".to_owned(),
        ),
        ("resolv.conf", resolv_conf),
        ("shells", "/bin/sh\n/bin/bash\n".to_owned()),
    ]
}
