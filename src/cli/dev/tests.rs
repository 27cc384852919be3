//! What `quorate dev` writes, and what it refuses.

use super::*;

fn dev(nodes: u16, port: u16) -> Dev {
    Dev { nodes, port: Some(port), data: None, tls: false, auth: false }
}

#[test]
fn configurations_are_written_once_and_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configure(&dev(3, 7401), dir.path()).unwrap();
    assert_eq!(configs.len(), 3);
    assert_eq!(configs[1].client_addr.port(), 7402);
    assert_eq!(configs[2].storage.disk_free_bytes_min, 32 << 20);
    let layout = |at: usize| format!("{:?}", configs[at].layout().unwrap());
    assert_eq!(layout(2), layout(0));
    let again = configure(&dev(3, 7401), dir.path()).unwrap();
    assert_eq!(again[0].cluster_keys, configs[0].cluster_keys);
    let other = configure(&dev(4, 7401), dir.path()).unwrap_err();
    assert!(other.to_string().contains("--nodes 3"), "{other}");
    let other = configure(&dev(3, 7501), dir.path()).unwrap_err();
    assert!(other.to_string().contains("--port 7401"), "{other}");
    let any = Dev { port: None, ..dev(3, 0) };
    assert!(configure(&any, dir.path()).is_ok(), "the ports are known");
}

#[test]
fn ports_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for port in [0, 65_500, u16::MAX] {
        let error = configure(&dev(3, port), dir.path()).unwrap_err();
        assert!(error.to_string().contains("65432"), "{error}");
    }
    assert!(configure(&dev(3, 65_432), dir.path()).is_ok());
}
