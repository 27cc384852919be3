//! What is made, what is refused, and what stays.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

fn issue_for(dir: &Path, node: &str) -> Ca {
    Ca::Issue(Issue {
        dir: dir.join("ca"),
        node: Some(NodeId::parse(node).unwrap()),
        host: vec!["127.0.0.1".to_owned(), "n1.example.org".to_owned()],
        client: None,
        out: dir.join("out"),
        days: 90,
    })
}

fn with_authority() -> TempDir {
    let dir = TempDir::new().unwrap();
    let made = run(&Ca::Init { dir: dir.path().join("ca"), days: 3650 }, false).unwrap();
    assert!(made.starts_with("authority"), "{made}");
    dir
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_authority_is_made_once_and_its_key_is_secret() {
    let dir = with_authority();
    let (ca, key) = (dir.path().join("ca"), dir.path().join("ca/ca.key"));
    assert_eq!((mode(&ca), mode(&key)), (0o700, 0o600));
    let before = fs::read(&key).unwrap();
    let again = run(&Ca::Init { dir: ca, days: 1 }, false).unwrap_err();
    assert!(again.contains("never overwritten"), "{again}");
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_node_gets_a_certificate_for_both_ports() {
    let dir = with_authority();
    let made = run(&issue_for(dir.path(), "n1"), true).unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    let made = &made["certificates"][0];
    assert_eq!(made["names"], json!(["quorate-node:n1", "n1.example.org", "127.0.0.1"]));
    assert_eq!(mode(&dir.path().join("out/n1.key")), 0o600);
    let again = run(&issue_for(dir.path(), "n1"), false).unwrap_err();
    assert!(again.contains("renew"), "{again}");
    let files = fs::read_dir(dir.path().join("out")).unwrap().count();
    assert_eq!(files, 2, "nothing unfinished is left");
}

#[test]
fn bad_names_are_refused_and_nothing_is_made() {
    let dir = with_authority();
    for host in ["", "a b", "h:1", "http://h", "ü"] {
        let Ca::Issue(mut bad) = issue_for(dir.path(), "n1") else { panic!() };
        bad.host = vec![host.to_owned()];
        let why = run(&Ca::Issue(bad), false).unwrap_err();
        assert!(why.contains("neither an IP address nor"), "{host}: {why}");
    }
    let Ca::Issue(base) = issue_for(dir.path(), "n1") else { panic!() };
    for client in ["", "../x", "a b", &"x".repeat(65)] {
        let bad =
            Issue { node: None, host: vec![], client: Some(client.to_owned()), ..base.clone() };
        assert!(run(&Ca::Issue(bad), false).is_err(), "{client}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn certificates_are_renewed_in_place_or_stay() {
    let dir = with_authority();
    run(&issue_for(dir.path(), "n1"), false).unwrap();
    let (cert, key) = (dir.path().join("out/n1.pem"), dir.path().join("out/n1.key"));
    let read = || (fs::read(&cert).unwrap(), fs::read(&key).unwrap());
    let first = read();
    let again = |authority: &str, certs: &[&Path], new_key| {
        run(
            &Ca::Renew(Renew {
                dir: dir.path().join(authority),
                certs: certs.iter().map(|cert| (*cert).to_owned()).collect(),
                days: 30,
                new_key,
            }),
            false,
        )
    };
    let told = again("ca", &[&cert], false).unwrap();
    assert!(told.contains("quorate-node:n1 n1.example.org 127.0.0.1"), "{told}");
    let second = read();
    assert!(second.0 != first.0 && second.1 == first.1, "the key stays");
    run(&Ca::Init { dir: dir.path().join("other"), days: 10 }, false).unwrap();
    again("other", &[&cert], true).unwrap();
    let third = read();
    assert!(third.0 != second.0 && third.1 != second.1);
    assert_eq!(mode(&key), 0o600);
    // One that cannot be renewed: none is.
    for bad in [dir.path().join("ca/ca.pem"), dir.path().join("out/none.pem")] {
        assert!(again("ca", &[&cert, &bad], false).is_err(), "{}", bad.display());
        assert!(read() == third);
    }
}
