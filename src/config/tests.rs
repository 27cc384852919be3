//! Which configurations are accepted or rejected, and which setting the error names.

use std::net::SocketAddr;

use super::*;
use quorate_engine::config::origin::Origin;

/// Loads a valid configuration with some lines changed, and with some environment variables.
fn load(
    change: impl Fn(&str) -> String,
    variables: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let text = std::fs::read_to_string("config/node.toml").unwrap();
    let text = text.replace(&"0".repeat(64), &"07".repeat(32));
    std::fs::write(&file, change(&text)).unwrap();
    let pairs = variables.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
    load_with(&file, pairs)
}

fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(str::to_owned, variables)
}

#[test]
fn every_setting_of_the_file_is_known_in_the_environment() {
    let text = std::fs::read_to_string("config/node.toml").unwrap();
    let (mut table, mut count) = (String::new(), 0);
    for line in text.lines().map(|line| line.trim_start_matches('#')) {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((name, _)) = line.split_once(" = ")
            && !name.contains(' ')
            && table != "layout.nodes."
        {
            let is_list = matches!((&*table, name), ("auth.", "anonymous") | ("jwt.", "grants"));
            let wanted = if is_list { Known::OnlyInFile } else { Known::Setting };
            assert_eq!(known(&format!("{table}{name}")), wanted, "{table}{name}");
            count += 1;
        }
    }
    let tables = [Limits::SETTINGS, Timeouts::SETTINGS, AntiEntropy::SETTINGS];
    let more = [Deletes::SETTINGS, GossipConfig::SETTINGS, PeersConfig::SETTINGS];
    let rest = [StorageConfig::SETTINGS, LogConfig::SETTINGS, ALONE, OF_LAYOUT, OF_DEFAULTS];
    let last = [
        ExplainConfig::SETTINGS,
        OtlpConfig::SETTINGS,
        AuthConfig::SETTINGS,
        JwtConfig::SETTINGS,
        AuditConfig::SETTINGS,
    ];
    let last = last.iter().chain(&[TlsConfig::SETTINGS; 2]); // of two ports
    let all = tables.iter().chain(&more).chain(&rest).chain(last).map(|settings| settings.len());
    assert_eq!(count, all.sum::<usize>());
}

#[test]
fn values_of_the_environment_keep_their_type() {
    let digits = "1234567890".repeat(7);
    let keys = format!("{},{}", &digits[..64], "ab".repeat(32));
    let config = with(&[
        ("QUORATE_CLUSTER_ID", "007"),
        ("QUORATE_CLUSTER_KEYS", &keys),
        ("QUORATE_DATA_DIR", "1e3"),
        ("QUORATE_FAULT_HOOK", "true"),
        ("QUORATE_DURABILITY", "buffered"),
        ("QUORATE_DEFAULTS__N", "5"),
        ("QUORATE_DEFAULTS__R", "2"),
        ("QUORATE_DEFAULTS__W", "all"),
        ("QUORATE_GOSSIP__PHI", "9"),
        ("QUORATE_LIMITS__VALUE_BYTES_MAX", "1048576"),
    ])
    .unwrap();
    assert_eq!((config.cluster_id.as_str(), config.fault_hook), ("007", true));
    assert_eq!(config.cluster_keys, [&digits[..64], &"ab".repeat(32)]);
    assert_eq!(config.data_dir, Path::new("1e3"));
    assert_eq!(config.durability, Durability::Buffered);
    let properties = config.defaults.properties();
    assert_eq!((properties.n, properties.r.of(5), properties.w.of(5)), (5, 2, 5));
    assert_eq!((config.gossip.phi, config.limits.value_bytes_max), (9.0, 1 << 20));
    let same = load(|text| text.replace("\"my-cluster\"", "\"007\""), &[]).unwrap();
    assert_eq!(same.cluster_id, config.cluster_id);
}

#[test]
fn foreign_variables_stop_nothing_and_are_named() {
    let config = with(&[("QUORATE_SERVICE_HOST", "10.0.0.1"), ("QUORATE_PORT", "tcp://x")]);
    assert_eq!(config.unwrap().foreign_variables(), ["QUORATE_PORT", "QUORATE_SERVICE_HOST"]);
}

#[test]
fn errors_blame_the_variable_or_the_file() {
    for (variable, text) in [
        ("QUORATE_LIMITS__VALUE_BYTES_MAX", "many"),
        ("QUORATE_LIMITS__VALUE_BYTES_MAX", "0"),
        ("QUORATE_DURABILITY", "fast"),
        ("QUORATE_NODE", "Not a name"),
        ("QUORATE_NODE", "n9"),
        ("QUORATE_DEFAULTS__R", "two"),
        ("QUORATE_DEFAULTS__W", "9"),
        ("QUORATE_PEER_ADDR", "127.0.0.1:7401"),
        ("QUORATE_LAYOUT__PARTITIONS", "3"),
        ("QUORATE_CLIENT_ADDR", "here"),
        ("QUORATE_CLUSTER_KEYS", "short"),
        ("QUORATE_LOG__LEVEL", "inof"),
    ] {
        let error = with(&[("QUORATE_CLUSTER_ID", "x"), (variable, text)]).unwrap_err();
        let told = error.to_string();
        let named = matches!(&error, ConfigError::Variable { name, .. } if name == variable);
        assert!(named, "{variable}={text}: {told}");
    }
    let error = load(|text| text.replace("[limits]", "[limits]\nnone = 1"), &[]).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
}

#[test]
fn what_cannot_work_is_refused() {
    let refused =
        |from: &str, to: &str, key: &str| match load(|text| text.replacen(from, to, 1), &[]) {
            Err(ConfigError::Value { key: found, .. }) => assert_eq!(found, key, "{to}"),
            other => panic!("{to}: {other:?}"),
        };
    refused(&"07".repeat(32), &"0".repeat(64), "cluster_keys");
    let twice = "[[layout.nodes]]\nname = \"n2\"\npeer_addr = \"127.0.0.1:7501\"\n\
                 [[layout.nodes]]";
    refused("[[layout.nodes]]", twice, "layout.nodes.peer_addr");
    let same = "client_addr = \"127.0.0.1:7501\"";
    refused("#client_addr = \"127.0.0.1:7401\"", same, "client_addr");
    let same = "client_addr = \"0.0.0.0:7501\"";
    refused("#client_addr = \"127.0.0.1:7401\"", same, "client_addr");
    refused("#level = \"info\"", "level = \"inof\"", "log.level");
}

#[test]
fn what_is_odd_is_said() {
    let odd = |variables: &[(&str, &str)]| oddities(&with(variables).unwrap());
    assert_eq!(odd(&[]), Vec::<String>::new());
    assert_eq!(odd(&[("QUORATE_PEER_ADDR", "0.0.0.0:7501")]), Vec::<String>::new());
    assert!(odd(&[("QUORATE_PEER_ADDR", "127.0.0.1:7502")])[0].starts_with("peer_addr"));
    assert!(odd(&[("QUORATE_PEER_ADDR", "127.0.0.2:7501")])[0].starts_with("peer_addr"));
    assert!(odd(&[("QUORATE_DATA_DIR", "/no/such/place")])[0].starts_with("data_dir"));
    let own: SocketAddr = "10.0.0.1:7501".parse().unwrap();
    assert!(is_reached_at(own, "n1.example:7501") && !is_reached_at(own, "n1.example:7502"));
    let own: SocketAddr = "[::1]:7501".parse().unwrap();
    assert!(is_reached_at(own, "[::1]:7501") && !is_reached_at(own, "[::2]:7501"));
}

/// A configuration with `join` instead of a layout, and more top-level settings.
fn joining(top: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let without_layout = |text: &str| {
        let (before, rest) = text.split_once("\n[layout]\n").unwrap();
        format!("{before}\n{top}\n[defaults]\n{}", rest.split_once("\n[defaults]\n").unwrap().1)
    };
    load(without_layout, variables)
}

#[test]
fn a_node_has_a_layout_or_joins() {
    let config = joining("join = [\"n1.test:7501\"]\nzone = \"b\"\nweight = 2", &[]).unwrap();
    let Ok(Origin::Join(found)) = config.origin() else { panic!() };
    assert_eq!(
        (found.members, found.zone, found.weight),
        (&["n1.test:7501".to_owned()][..], "b", 2)
    );
    assert_eq!(config.peer_addr_for_others().unwrap(), "127.0.0.1:7501");
    assert!(config.layout().is_err() && config.layout_nodes().is_empty());
    assert!(matches!(with(&[]).unwrap().origin(), Ok(Origin::Layout(_))));
    let same =
        joining("", &[("QUORATE_JOIN", "n1.test:7501, n2.test:7501"), ("QUORATE_WEIGHT", "3")]);
    let same = same.unwrap();
    assert_eq!((same.join.len(), same.join[1].as_str(), same.weight), (2, "n2.test:7501", 3));
    assert_eq!(same.zone, "default");
    let named = |found: Result<Config, ConfigError>, word: &str| {
        let told = found.unwrap_err().to_string();
        assert!(told.contains(word), "{told}");
        told
    };
    assert!(named(joining("", &[]), "layout").contains("set join"));
    let both = named(with(&[("QUORATE_JOIN", "n1.test:7501")]), "QUORATE_JOIN");
    assert!(both.contains("remove"), "{both}");
    named(joining("", &[("QUORATE_JOIN", "")]), "QUORATE_JOIN");
    named(joining("join = [\"n1\"]", &[]), "join must be a host and a port");
    let many = format!("join = [{}]", "\"n1:1\",".repeat(17));
    named(joining(&many, &[]), "join must be 1 to 16");
    for (setting, word) in [
        ("zone = \"\"", "zone must be"),
        ("weight = 0", "weight must be from 1 to 100"),
        ("weight = 101", "weight must be from 1 to 100"),
        ("peer_addr_advertised = \"here\"", "peer_addr_advertised must be"),
        ("peer_addr = \"0.0.0.0:7501\"", "peer_addr_advertised must be"),
    ] {
        named(joining(&format!("join = [\"n1:1\"]\n{setting}"), &[]), word);
    }
}

/// Buckets without properties of their own would all be counters.
#[test]
fn a_type_is_no_default() {
    let typed = |text: &str| text.replace("#conflicts = \"siblings\"", "conflicts = \"counter\"");
    let told = load(typed, &[]).unwrap_err().to_string();
    assert!(told.contains("defaults.conflicts must be siblings or lww"), "{told}");
    let lww = |text: &str| text.replace("#conflicts = \"siblings\"", "conflicts = \"lww\"");
    assert!(load(lww, &[]).is_ok());
}

#[test]
fn a_node_that_listens_everywhere_says_where_it_is_reached() {
    let top = "join = [\"n1:1\"]\npeer_addr = \"0.0.0.0:7501\"\nclient_addr = \"0.0.0.0:7401\"\n\
               peer_addr_advertised = \"n4.test:9\"";
    let config = joining(top, &[]).unwrap();
    assert_eq!(config.peer_addr_for_others().unwrap(), "n4.test:9");
    assert_eq!(config.advertised_client_addr().as_deref(), Some("n4.test:7401"));
}

#[test]
fn a_node_with_a_stored_record_needs_neither() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().display().to_string();
    std::fs::write(dir.path().join(RECORD_FILE), "").unwrap();
    let stored = [("QUORATE_DATA_DIR", data_dir.as_str())];
    assert!(joining("", &stored).is_ok());
    assert!(with(&[stored[0], ("QUORATE_JOIN", "n1:1")]).is_ok());
    assert!(with(&[stored[0], ("QUORATE_NODE", "n9")]).is_ok(), "not in the old layout");
    assert!(with(&[("QUORATE_NODE", "n9")]).is_err());
}

#[test]
fn clients_are_told_an_address_that_they_can_reach() {
    let told = |variables: &[(&str, &str)]| with(variables).unwrap().advertised_client_addr();
    let listen = |addr| told(&[("QUORATE_CLIENT_ADDR", addr)]);
    assert_eq!(told(&[]).as_deref(), Some("127.0.0.1:7401"));
    assert_eq!(listen("10.1.2.3:80").as_deref(), Some("10.1.2.3:80"));
    assert_eq!(listen("0.0.0.0:81").as_deref(), Some("127.0.0.1:81"), "the host of its peer_addr");
    assert_eq!(listen("127.0.0.1:0"), None, "the system chooses the port");
    let name = "QUORATE_CLIENT_ADDR_ADVERTISED";
    assert_eq!(told(&[(name, "db1.example.org:7401")]).as_deref(), Some("db1.example.org:7401"));
    for wrong in
        ["", "db1", ":7401", "db1:0", "db1:70000", "a b:1", &format!("{}:1", "x".repeat(300))]
    {
        let error = with(&[(name, wrong)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("a host and a port"), "{error}");
    }
}

#[test]
fn tokens_of_an_issuer_need_to_say_whose_they_are_and_for_whom() {
    let keys = ("QUORATE_JWT__KEYS", "https://login.example/keys");
    let issuer = ("QUORATE_JWT__ISSUER", "https://login.example");
    let audience = ("QUORATE_JWT__AUDIENCE", "quorate, db");
    let claim = ("QUORATE_JWT__SCOPES_CLAIM", "scopes");
    let jwt = with(&[keys, issuer, audience, claim]).unwrap().jwt;
    assert!(jwt.is_on() && jwt.is_at_url() && jwt.audience == ["quorate", "db"]);
    assert_eq!(jwt.algorithms, [JwtAlgorithm::RS256]);
    let two = with(&[keys, issuer, audience, claim, ("QUORATE_JWT__ALGORITHMS", "ES256,EdDSA")]);
    assert_eq!(two.unwrap().jwt.algorithms, [JwtAlgorithm::ES256, JwtAlgorithm::EdDSA]);
    for (settings, words) in [
        (vec![keys, audience, claim], "jwt.issuer: it is missing"),
        (vec![keys, issuer, claim], "jwt.audience: it is missing"),
        (vec![keys, issuer, audience], "set jwt.scopes_claim or jwt.grants"),
        (vec![("QUORATE_JWT__AUDIENCE", "a,")], "jwt.audience"),
        (vec![("QUORATE_JWT__ALGORITHMS", "none")], "QUORATE_JWT__ALGORITHMS"),
        (vec![("QUORATE_JWT__ALGORITHMS", "HS256")], "QUORATE_JWT__ALGORITHMS"),
        (vec![("QUORATE_JWT__LEEWAY_MS", "300001")], "from 0 to 300000"),
        (vec![("QUORATE_JWT__GRANTS", "x")], "only be in the file"),
    ] {
        let error = with(&settings).unwrap_err().to_string();
        assert!(error.contains(words), "{settings:?}: {error}");
    }
    for url in ["http://login.example/keys", "https://", "ftp://x/y", "https://user:secret@x/y"] {
        let error = with(&[("QUORATE_JWT__KEYS", url), issuer, audience, claim]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("an https URL"), "{url}: {error}");
    }
    let grants = |text: &str| {
        let of_file = |whole: &str| whole.replace("#grants = []", &format!("grants = [{text}]"));
        load(of_file, &[keys, issuer, audience])
    };
    let scopes = r#"scopes = [{ actions = ["read"], buckets = ["a"] }]"#;
    assert!(grants(&format!(r#"{{ claim = "g", value = "a", {scopes} }}"#)).is_ok());
    for wrong in [
        r#"{ claim = "g", value = "a", scopes = [] }"#,
        r#"{ claim = "g", value = "a", scopes = [{ actions = ["read"] }] }"#,
        r#"{ claim = "", value = "a", scopes = [{ actions = ["admin"] }] }"#,
        r#"{ claim = "g", value = "", scopes = [{ actions = ["admin"] }] }"#,
    ] {
        let error = grants(wrong).unwrap_err().to_string();
        assert!(error.contains("jwt.grants"), "{wrong}: {error}");
    }
}

#[test]
fn tls_needs_its_files() {
    let with = |tables: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        let text = std::fs::read_to_string("config/node.toml").unwrap();
        let text = text.replace(&"0".repeat(64), &"07".repeat(32));
        std::fs::write(&file, format!("{text}\n")).unwrap();
        let tables: Vec<(OsString, OsString)> = tables
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        load_with(&file, tables).map(|config| config.peer_tls).map_err(|error| error.to_string())
    };
    let good = "QUORATE_PEER_TLS__MODE=accept QUORATE_PEER_TLS__CERT=c QUORATE_PEER_TLS__KEY=k";
    let peer_tls = with(&format!("{good} QUORATE_PEER_TLS__CA=a,b")).unwrap();
    assert_eq!((peer_tls.mode, peer_tls.ca.len()), (TlsMode::Accept, 2));
    for (wrong, words) in [
        (good.to_owned(), "peer_tls.ca: it is missing"),
        ("QUORATE_CLIENT_TLS__MODE=require".to_owned(), "client_tls.cert: it is missing"),
        ("QUORATE_CLIENT_TLS__KEY=k".to_owned(), "cert and key belong together"),
        ("QUORATE_CLIENT_TLS__CA=a,".to_owned(), "client_tls.ca"),
        ("QUORATE_CLIENT_TLS__MODE=on".to_owned(), "QUORATE_CLIENT_TLS__MODE"),
    ] {
        let error = with(&wrong).unwrap_err();
        assert!(error.contains(words), "{wrong}: {error}");
    }
    assert_eq!(with("").unwrap().mode, TlsMode::Off);
}
