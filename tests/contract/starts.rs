//! Starting: errors are reported before anything is done, and unrelated variables do no harm.

use std::fs;
use std::process::{Command, Output};

use crate::common::{Cluster, Node};

/// Runs a command of the binary to its end, with an environment and a changed configuration.
fn run(
    node: &Node,
    verb: &str,
    variables: &[(&str, &str)],
    change: (&str, &str),
) -> (bool, String) {
    let text = fs::read_to_string(node.config()).unwrap();
    let file = node.directory.join("changed.toml");
    assert!(text.contains(change.0), "{}", change.0);
    fs::write(&file, text.replacen(change.0, change.1, 1)).unwrap();
    let own = node.command(verb);
    let mut command = Command::new(own.get_program());
    for (name, _) in own.get_envs() {
        command.env_remove(name);
    }
    command.arg(verb).arg("--config").arg(&file).envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}

#[test]
fn check_config_finds_what_cannot_work() {
    let cluster = Cluster::unformed(1, "test", "");
    let node = &cluster.nodes[0];
    let good = run(node, "check-config", &[], ("durability", "durability"));
    assert!(good.0, "{}", good.1);
    let key = "07".repeat(32);
    let peer_addr = format!("peer_addr = \"{}\"", node.peer_addr);
    let client_addr = format!("client_addr = \"{}\"", node.client_addr);
    let data_dir = format!("data_dir = {:?}", node.data_dir());
    let second = format!("[[layout.nodes]]\nname = \"n2\"\n{peer_addr}\n[[layout.nodes]]");
    let same = format!("client_addr = \"{}\"", node.peer_addr);
    for (from, to, word) in [
        (key.as_str(), "0".repeat(64).as_str(), "cluster_keys"),
        ("[[layout.nodes]]", second.as_str(), "layout.nodes.peer_addr"),
        (client_addr.as_str(), same.as_str(), "client_addr"),
        (peer_addr.as_str(), "peer_addr = \"127.0.0.1:9\"", "peer_addr is 127.0.0.1:9"),
        (data_dir.as_str(), "data_dir = \"/no/such/data\"", "/no/such"),
        ("[layout]", "[log]\nlevel = \"inof\"\n[layout]", "\"inof\" is no level"),
    ] {
        let (is_good, told) = run(node, "check-config", &[], (from, to));
        assert!(!is_good && told.contains(word), "{to}: {told}");
    }
    let (is_good, told) = run(node, "serve", &[], (&key, &"0".repeat(64)));
    assert!(!is_good && told.contains("cluster_keys"), "{told}");
}

#[test]
fn foreign_variables_stop_nothing_and_errors_name_theirs() {
    let cluster = Cluster::unformed(1, "test", "");
    let node = &cluster.nodes[0];
    let check = |variables: &[(&str, &str)]| {
        run(node, "check-config", variables, ("durability", "durability"))
    };
    let foreign = [("QUORATE_SERVICE_HOST", "10.0.0.1"), ("QUORATE_PORT_7401_TCP", "tcp://x")];
    let (is_good, told) = check(&foreign);
    assert!(is_good && foreign.iter().all(|(name, _)| told.contains(name)), "{told}");
    for (name, value) in [
        ("QUORATE_LIMITS__VALUE_BYTES_MAX", "many"),
        ("QUORATE_LIMITS__VALUE_BYTES_MAX", "0"),
        ("QUORATE_LIMITS__VALUE_BYTE_MAX", "1"),
        ("QUORATE_CLUSTER_KEYS", "x"),
        ("QUORATE_NODE", "n9"),
    ] {
        let (is_good, told) = check(&[(name, value)]);
        assert!(!is_good && told.contains(name) && !told.contains(".toml"), "{told}");
    }
}

#[test]
fn a_number_in_the_environment_stays_the_text_it_is() {
    let mut cluster = Cluster::unformed(1, "007", "");
    cluster.form();
    cluster.wait_until_ready();
    cluster.nodes[0].stop();
    // The recorded id is compared with that in the environment: "7" would be another cluster.
    let mut command = cluster.nodes[0].command("serve");
    command.env("QUORATE_CLUSTER_ID", "007").env("QUORATE_SERVICE_PORT", "7401");
    cluster.nodes[0].launch_as(command);
    cluster.wait_until_ready();
    let log = cluster.nodes[0].log_text();
    assert!(log.contains("QUORATE_SERVICE_PORT"), "{log}");
}

#[test]
fn form_says_that_it_was_refused_and_does_not_wait() {
    let mut cluster = Cluster::unformed(1, "test", "");
    cluster.nodes[0].wait_until_alive();
    let node = &cluster.nodes[0];
    let (is_good, told) = run(node, "form", &[], ("cluster_id = \"test\"", "cluster_id = \"x\""));
    assert!(!is_good && told.contains("refused: "), "{told}");
    assert!(!told.contains("does not answer"), "{told}");
}
