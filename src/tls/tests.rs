//! Certificates of tests, and what loading them says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use quorate_protocol::name::NodeId;
use tempfile::TempDir;

use super::authority::{Authority, Subject};
use super::private_file::{PUBLIC, SECRET, create};
use super::slot::Looked;
use super::*;

/// A directory with an authority and certificates.
pub(crate) struct Certificates {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (authority, made) = Authority::new(10).unwrap();
        create(&dir.path().join("ca.pem"), PUBLIC, made.cert.as_bytes()).unwrap();
        Self { dir, authority }
    }

    /// Makes or replaces the certificate of a node, in files of this name.
    pub(crate) fn issue(&self, node: &str, file: &str) {
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let subject = Subject::Node(NodeId::parse(node).unwrap(), hosts);
        let made = self.authority.issue(&subject, 5).unwrap();
        for (path, mode, contents) in
            [(self.key(file), SECRET, made.key), (self.cert(file), PUBLIC, made.cert)]
        {
            drop(fs::remove_file(&path));
            create(&path, mode, contents.as_bytes()).unwrap();
        }
    }

    pub(crate) fn cert(&self, file: &str) -> PathBuf {
        self.dir.path().join(format!("{file}.pem"))
    }

    pub(crate) fn key(&self, file: &str) -> PathBuf {
        self.dir.path().join(format!("{file}.key"))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The settings of a port with the certificate in these files.
    pub(crate) fn settings(&self, mode: TlsMode, file: &str) -> TlsConfig {
        TlsConfig { mode, cert: self.cert(file), key: self.key(file), ca: vec![self.ca()] }
    }
}

/// The configuration of n1, with the data in `dir`.
pub(crate) fn config(dir: &Path) -> Config {
    let text = format!(
        "cluster_id = \"test\"\ncluster_keys = [\"{}\"]\nnode = \"n1\"\ndata_dir = {:?}\n\
         [layout]\nversion = 1\npartitions = 8\n\
         [[layout.nodes]]\nname = \"n1\"\npeer_addr = \"127.0.0.1:7501\"\nzone = \"a\"\n\
         [[layout.nodes]]\nname = \"n2\"\npeer_addr = \"127.0.0.1:3\"\nzone = \"b\"\n",
        "07".repeat(32),
        dir.join("data"),
    );
    let file = dir.join("node.toml");
    fs::write(&file, text).unwrap();
    crate::config::load_with(&file, []).unwrap()
}

/// With TLS between nodes, with the certificate in these files.
fn peer_config(certificates: &Certificates, file: &str) -> Config {
    let peer_tls = certificates.settings(TlsMode::Require, file);
    Config { peer_tls, ..config(certificates.dir.path()) }
}

fn refused(config: &Config) -> String {
    Tls::load(config).unwrap_err().to_string()
}

#[test]
fn a_certificate_of_the_node_is_loaded() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let tls = Tls::load(&peer_config(&certificates, "n1")).unwrap();
    let [state] = quorate_engine::host::Certificates::list(&tls)[..] else {
        panic!("one port speaks TLS")
    };
    assert_eq!((state.port, state.reload_failed), ("peer", false));
    let shown = format!("{tls:?}");
    assert_eq!(
        shown, "Tls { client: None, peer: Some(Slot(peer, require)) }",
        "no secret is shown"
    );
}

#[test]
fn what_cannot_be_used_is_named_with_what_to_do() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    certificates.issue("n2", "n2");
    let good = || peer_config(&certificates, "n1");
    let with = |change: &dyn Fn(&mut TlsConfig)| {
        let mut config = good();
        change(&mut config.peer_tls);
        refused(&config)
    };
    let missing = with(&|tls| tls.cert = "/no/such/file".into());
    assert!(missing.starts_with("peer_tls.cert /no/such/file: "), "{missing}");
    let other = with(&|tls| tls.key = certificates.key("n2"));
    assert!(other.starts_with("peer_tls.key") && other.contains("not the key"), "{other}");
    let swapped = with(&|tls| tls.cert = certificates.key("n1"));
    assert!(swapped.contains("no certificate"), "{swapped}");
    let keyless = with(&|tls| tls.key = certificates.cert("n1"));
    assert!(keyless.contains("chmod 600"), "{keyless}");
    let leaf = with(&|tls| tls.ca = vec![certificates.cert("n2")]);
    assert!(leaf.contains("not of an authority"), "{leaf}");
    let own = refused(&peer_config(&certificates, "n2"));
    assert!(
        own.contains("is of node n2, not of n1") && own.contains("ca issue --node n1"),
        "{own}"
    );
    let foreign = Certificates::new();
    let strange = with(&|tls| tls.ca = vec![foreign.ca()]);
    assert!(strange.contains("none of the authorities"), "{strange}");
    fs::write(certificates.cert("junk"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let junk = with(&|tls| tls.cert = certificates.cert("junk"));
    assert!(junk.contains("peer_tls.cert"), "{junk}");
    let long = certificates.cert("long");
    fs::write(&long, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(with(&|tls| tls.cert = long.clone()).contains("longer"));
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let key = certificates.key("n1");
    for mode in [0o640, 0o604, 0o620, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let why = refused(&peer_config(&certificates, "n1"));
        assert!(why.contains(&format!("chmod 600 {}", key.display())), "{why}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert!(Tls::load(&peer_config(&certificates, "n1")).is_ok(), "{mode:o}");
    }
}

#[test]
fn changed_files_are_loaded_and_broken_ones_leave_the_old() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let slot = Slot::load(&peer_config(&certificates, "n1"), Port::Peer).unwrap();
    assert_eq!(slot.look(), Looked::Same);
    let before = slot.current();
    certificates.issue("n1", "n1");
    assert_eq!(slot.look(), Looked::Replaced);
    assert!(!Arc::ptr_eq(&before, &slot.current()));
    let good = fs::read(certificates.cert("n1")).unwrap();
    let before = slot.current();
    fs::write(certificates.cert("n1"), &good[..good.len() / 2]).unwrap();
    let Looked::Failed(error) = slot.look() else { panic!("half a file was loaded") };
    assert!(slot.set_trouble(Some(error.clone())) && !slot.set_trouble(Some(error)), "told once");
    assert!(Arc::ptr_eq(&before, &slot.current()) && slot.state().reload_failed);
    fs::write(certificates.cert("n1"), &good).unwrap();
    assert_eq!(slot.look(), Looked::Same);
    assert!(!slot.state().reload_failed, "it was mended");
}

#[test]
fn the_client_port_needs_a_host_and_no_authority() {
    let certificates = Certificates::new();
    certificates.issue("n1", "n1");
    let client_tls = TlsConfig { ca: vec![], ..certificates.settings(TlsMode::Accept, "n1") };
    let good = Config { client_tls, ..config(certificates.dir.path()) };
    assert!(Tls::load(&good).unwrap().client.is_some());
    let client = Subject::Client("app".to_owned());
    let made = certificates.authority.issue(&client, 5).unwrap();
    create(&certificates.cert("app"), PUBLIC, made.cert.as_bytes()).unwrap();
    create(&certificates.key("app"), SECRET, made.key.as_bytes()).unwrap();
    let client_tls = certificates.settings(TlsMode::Accept, "app");
    let why = refused(&Config { client_tls, ..good });
    assert!(why.contains("names no host"), "{why}");
}
