//! The files of the nodes of `quorate dev`.

use std::path::Path;

use quorate_protocol::name::NodeId;

use super::{CA_DIR, Dev, DevError, PEER_PORTS_ABOVE, PORT};
use crate::cli::ca::{self, Ca, Issue};
use crate::config::new_key;
use crate::tls::private_file::{SECRET, create};

/// Makes an authority and the certificates of all nodes.
fn make_certificates(dev: &Dev, dir: &Path) -> Result<(), String> {
    ca::run(&Ca::Init { dir: dir.join(CA_DIR), days: 3650 }, true)?;
    for number in 1..=dev.nodes {
        let node = NodeId::parse(&format!("n{number}")).map_err(|error| error.to_string())?;
        let hosts = ["127.0.0.1", "::1", "localhost"];
        ca::run(&Ca::Issue(Issue::of_node(node, &hosts, &dir.join(CA_DIR), 365)), true)?;
    }
    Ok(())
}

/// The settings of a node with TLS on all ports.
fn tls_settings(dir: &Path, number: u16) -> String {
    let ca = dir.join(CA_DIR);
    let path = |file: String| ca.join(file).display().to_string();
    let (cert, key) = (path(format!("n{number}.pem")), path(format!("n{number}.key")));
    let of = |table: &str, more: String| {
        format!("[{table}]\nmode = \"require\"\ncert = {cert:?}\nkey = {key:?}\n{more}")
    };
    let authority = path("ca.pem".to_owned());
    of("client_tls", String::new()) + &of("peer_tls", format!("ca = [{authority:?}]\n"))
}

/// Writes the configurations of all nodes, and their certificates.
///
/// # Errors
/// [`DevError`] if the ports do not fit, or the directory takes no files.
pub(super) fn write(dev: &Dev, dir: &Path) -> Result<(), DevError> {
    let (first, max) = (dev.port.unwrap_or(PORT), u16::MAX - PEER_PORTS_ABOVE - dev.nodes);
    if !(1..=max).contains(&first) {
        return Err(DevError::Port { max, nodes: dev.nodes, port: first });
    }
    if dev.tls {
        make_certificates(dev, dir).map_err(DevError::Certificates)?;
    }
    let key = new_key();
    let peer_port = |number: u16| first + PEER_PORTS_ABOVE + number - 1;
    let mut layout = String::from("[layout]\nversion = 1\npartitions = 64\n");
    for number in 1..=dev.nodes {
        let port = peer_port(number);
        layout += &format!(
            "[[layout.nodes]]\nname = \"n{number}\"\npeer_addr = \"127.0.0.1:{port}\"\n\
             zone = \"n{number}\"\n"
        );
    }
    for number in 1..=dev.nodes {
        // Small caches, and of the disk only a small reserve, which is as large as what must stay free.
        let home = dir.join(format!("n{number}"));
        let files = |path: &Path, source| DevError::Files { path: path.to_owned(), source };
        std::fs::create_dir_all(&home).map_err(|source| files(&home, source))?;
        let text = format!(
            "# Written by `quorate dev`.\ncluster_id = \"dev\"\ncluster_keys = [{key:?}]\n\
             node = \"n{number}\"\ndata_dir = {data:?}\nclient_addr = \"127.0.0.1:{client}\"\n\
             peer_addr = \"127.0.0.1:{peer}\"\ndurability = \"buffered\"\n\
             [storage]\nblock_cache_bytes = 33554432\nrow_cache_bytes = 16777216\n\
             memtable_bytes = 16777216\ndisk_free_bytes_min = 33554432\n{auth}{tls}{layout}",
            auth = if dev.auth { "[auth]\nmode = \"on\"\n" } else { "" },
            tls = if dev.tls { tls_settings(dir, number) } else { String::new() },
            data = home.join("data").display().to_string(),
            client = first + number - 1,
            peer = peer_port(number),
        );
        let path = home.join("node.toml");
        drop(std::fs::remove_file(&path)); // of an earlier start that did not get far
        create(&path, SECRET, text.as_bytes()).map_err(|source| files(&path, source))?;
    }
    Ok(())
}
