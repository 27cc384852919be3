//! What a configuration must satisfy as a whole.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use quorate_protocol::access;
use quorate_protocol::bucket::{Conflicts, Settings};
use quorate_protocol::handshake::{PROTOCOL_MAX, PROTOCOL_MIN};
use quorate_protocol::layout::{WEIGHT_MAX, ZONE_BYTES_MAX};

use super::origin::JOIN_MAX;
use super::{Config, ConfigError, TlsMode, value};

impl Config {
    /// Whether every value is valid, alone and with the others.
    ///
    /// # Errors
    /// [`ConfigError::Value`] that names the key and the accepted values.
    pub fn check(&self) -> Result<(), ConfigError> {
        let id_fits = !self.cluster_id.is_empty() && self.cluster_id.len() <= 64;
        if !id_fits || !self.cluster_id.bytes().all(|b| b.is_ascii_graphic()) {
            let allowed = "1 to 64 visible ASCII characters";
            return Err(value("cluster_id", allowed, &self.cluster_id));
        }
        self.secrets()?;
        if self.layout.is_some() {
            self.layout()?;
        }
        self.check_addresses()?;
        self.check_join()?;
        self.check_tls()?;
        // Each bucket is given a type by itself, before it has keys.
        if let Some(data_type) = self.defaults.conflicts.and_then(Conflicts::data_type) {
            return Err(value("defaults.conflicts", "siblings or lww", data_type));
        }
        let quorums = Settings { r: self.defaults.r, w: self.defaults.w, ..Settings::default() };
        let properties = self.defaults.properties();
        if !(1..=255).contains(&self.defaults.n.unwrap_or(properties.n)) {
            return Err(value("defaults.n", "from 1 to 255", self.defaults.n.unwrap_or(0)));
        }
        quorums.check(&properties, u16::MAX).map_err(|error| ConfigError::Value {
            key: "defaults",
            allowed: "such that 1 <= r, w <= n".to_owned(),
            value: error.to_string(),
        })?;
        self.check_ranges()
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        if let Some(addr) = self.client_addr_advertised.as_ref().filter(|it| !is_host_and_port(it))
        {
            let allowed = "a host and a port, such as n1.example.org:7401";
            return Err(value("client_addr_advertised", allowed, addr));
        }
        let mut seen: Vec<String> = Vec::new();
        for node in self.layout_nodes() {
            let wrong = |allowed| value("layout.nodes.peer_addr", allowed, &node.peer_addr);
            if !is_host_and_port(&node.peer_addr) {
                return Err(wrong("a host and a port, such as 127.0.0.1:7501"));
            }
            let addr = node.peer_addr.to_ascii_lowercase();
            if seen.contains(&addr) {
                return Err(wrong("unique to one node"));
            }
            seen.push(addr);
        }
        let (client, peer) = (self.client_addr, self.peer_addr);
        let same_host =
            client.ip() == peer.ip() || client.ip().is_unspecified() || peer.ip().is_unspecified();
        if client.port() != 0 && client.port() == peer.port() && same_host {
            return Err(value("client_addr", "different from peer_addr", client));
        }
        Ok(())
    }

    /// What a node says of itself when it asks to join.
    fn check_join(&self) -> Result<(), ConfigError> {
        let host_and_port = "a host and a port, such as 10.0.0.4:7501";
        if self.join.len() > JOIN_MAX {
            return Err(value("join", "1 to 16 peer addresses of members", self.join.len()));
        }
        if let Some(addr) = self.join.iter().find(|addr| !is_host_and_port(addr)) {
            return Err(value("join", host_and_port, format!("{addr:?}")));
        }
        if let Some(addr) = self.peer_addr_advertised.as_ref().filter(|it| !is_host_and_port(it)) {
            return Err(value("peer_addr_advertised", host_and_port, format!("{addr:?}")));
        }
        if self.zone.is_empty() || self.zone.len() > ZONE_BYTES_MAX {
            return Err(value("zone", "1 to 64 bytes", format!("{:?}", self.zone)));
        }
        in_range("weight", self.weight, 1..=WEIGHT_MAX)
    }

    /// Whether each port has the files that its mode needs; whether they load is for the host to say.
    fn check_tls(&self) -> Result<(), ConfigError> {
        const CA_MAX: usize = 16;
        let wrong = |key, reason| Err(ConfigError::Origin { key, reason });
        for (tls, cert, ca) in [
            (&self.client_tls, "client_tls.cert", "client_tls.ca"),
            (&self.peer_tls, "peer_tls.cert", "peer_tls.ca"),
        ] {
            if tls.cert.as_os_str().is_empty() != tls.key.as_os_str().is_empty() {
                return wrong(cert, "cert and key belong together: give both, or neither");
            }
            if tls.ca.len() > CA_MAX || tls.ca.iter().any(|file| file.as_os_str().is_empty()) {
                return Err(value(ca, "up to 16 names of files", format!("{:?}", tls.ca)));
            }
            if tls.mode != TlsMode::Off && tls.cert.as_os_str().is_empty() {
                return wrong(
                    cert,
                    "it is missing: `quorate ca issue` makes a certificate and its key",
                );
            }
        }
        if self.peer_tls.mode != TlsMode::Off && self.peer_tls.ca.is_empty() {
            return wrong(
                "peer_tls.ca",
                "it is missing: list the authorities that sign the certificates of nodes (`quorate ca init` \
                 makes one)",
            );
        }
        Ok(())
    }

    fn check_auth(&self) -> Result<(), ConfigError> {
        access::check(&self.auth.anonymous).map_err(|error| ConfigError::Value {
            key: "auth.anonymous",
            allowed: "scopes, such as [{ actions = [\"read\"], buckets = [\"public\"] }]"
                .to_owned(),
            value: error.to_string(),
        })?;
        in_range("auth.stale_ms", self.auth.stale_ms, 5_000..=24 * 3_600_000)?;
        self.jwt.check()?;
        let to = &self.audit.to;
        if to.is_empty() || to.contains('\0') {
            return Err(value("audit.to", "off, stderr or the path of a file", format!("{to:?}")));
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        const HOUR_MS: u64 = 3_600_000;
        const GIB: usize = 1 << 30;
        let Self { limits: l, timeouts: t, peers: p, storage: s, .. } = self;
        in_range("worker_threads", self.worker_threads, 0..=1024)?;
        in_range("limits.value_bytes_max", l.value_bytes_max, 1..=256 << 20)?;
        in_range("limits.siblings_max", l.siblings_max, 1..=10_000)?;
        in_range("limits.object_bytes_max", l.object_bytes_max, l.value_bytes_max..=GIB)?;
        in_range("limits.operations_max", l.operations_max, 1..=1 << 20)?;
        in_range(
            "limits.operation_bytes_max",
            l.operation_bytes_max,
            l.value_bytes_max..=64 * GIB,
        )?;
        in_range("limits.connections_max", l.connections_max, 1..=1 << 20)?;
        in_range("limits.hint_bytes_max", l.hint_bytes_max, 0..=1 << 50)?;
        in_range("limits.hint_alarm_ms", l.hint_alarm_ms, 100..=720 * HOUR_MS)?;
        in_range("limits.idempotency_keys_max", l.idempotency_keys_max, 0..=10_000_000)?;
        in_range("timeouts.request_ms_max", t.request_ms_max, 1..=HOUR_MS)?;
        in_range("timeouts.request_ms", t.request_ms, 1..=t.request_ms_max)?;
        in_range("timeouts.replica_ms", t.replica_ms, 10..=60_000)?;
        in_range("timeouts.header_ms", t.header_ms, 100..=HOUR_MS)?;
        in_range("timeouts.idle_ms", t.idle_ms, 100..=24 * HOUR_MS)?;
        in_range("timeouts.body_ms", t.body_ms, 100..=HOUR_MS)?;
        in_range("timeouts.shutdown_ms", t.shutdown_ms, 100..=HOUR_MS)?;
        in_range("timeouts.drain_ms", t.drain_ms, 0..=HOUR_MS)?;
        in_range("timeouts.idempotency_ms", t.idempotency_ms, 0..=24 * HOUR_MS)?;
        in_range("timeouts.probe_ms", t.probe_ms, 50..=60_000)?;
        let (a, d) = (&self.anti_entropy, &self.deletes);
        in_range("anti_entropy.interval_ms", a.interval_ms, 0..=24 * HOUR_MS)?;
        in_range("anti_entropy.share_percent", a.share_percent, 1..=100)?;
        in_range("anti_entropy.fill_percent", a.fill_percent, 1..=100)?;
        in_range("anti_entropy.scrub_ms", a.scrub_ms, 0..=720 * HOUR_MS)?;
        in_range("deletes.grace_ms", d.grace_ms, 1000..=720 * HOUR_MS)?;
        in_range("deletes.expire_ms", d.expire_ms, 100..=24 * HOUR_MS)?;
        in_range("deletes.expired_age_ms", d.expired_age_ms, 0..=24 * HOUR_MS)?;
        in_range("deletes.reap_ms", d.reap_ms, 100..=24 * HOUR_MS)?;
        in_range("explain.slow_ms", self.explain.slow_ms, 1..=HOUR_MS)?;
        in_range("otlp.sample_percent", self.otlp.sample_percent, 0.1..=100.0)?;
        self.check_auth()?;
        in_range("gossip.interval_ms", self.gossip.interval_ms, 20..=10_000)?;
        in_range("gossip.phi", self.gossip.phi, 1.0..=100.0)?;
        in_range("peers.lanes", p.lanes, 1..=64)?;
        in_range("peers.queue_messages_max", p.queue_messages_max, 1..=1 << 20)?;
        in_range("peers.queue_bytes_max", p.queue_bytes_max, 1 << 20..=4 * GIB)?;
        in_range("peers.batch_messages_max", p.batch_messages_max, 1..=4096)?;
        in_range("peers.batch_bytes_max", p.batch_bytes_max, 4096..=64 << 20)?;
        in_range("peers.protocol_min", p.protocol_min, PROTOCOL_MIN..=PROTOCOL_MAX)?;
        in_range("peers.protocol_max", p.protocol_max, PROTOCOL_MIN..=PROTOCOL_MAX)?;
        in_range("peers.large_bytes_max", p.large_bytes_max, 1 << 20..=64 * GIB)?;
        in_range("storage.block_cache_bytes", s.block_cache_bytes, 1 << 20..=1024 * GIB)?;
        in_range("storage.row_cache_bytes", s.row_cache_bytes, 0..=1024 * GIB)?;
        in_range("storage.memtable_bytes", s.memtable_bytes, 1 << 20..=16 * GIB)?;
        let background = s.background_bytes_per_s;
        if background != 0 {
            in_range("storage.background_bytes_per_s", background, 8 << 20..=1 << 40)?;
        }
        in_range("storage.disk_free_bytes_min", s.disk_free_bytes_min, 0..=1 << 50)
    }
}

/// Whether this can be the address of a port: a host and a port, without whitespace.
pub fn is_host_and_port(addr: &str) -> bool {
    const BYTES_MAX: usize = 253 + ":65535".len(); // the longest DNS name
    let Some((host, port)) = addr.rsplit_once(':') else { return false };
    let fits = !host.is_empty() && addr.len() <= BYTES_MAX;
    fits && host.bytes().all(|b| b.is_ascii_graphic()) && matches!(port.parse::<u16>(), Ok(1..))
}

/// Whether a listener at `own` can be reached at `shown`, host and port, as far as can be told
/// without DNS.
pub fn is_reached_at(own: SocketAddr, shown: &str) -> bool {
    let Some((host, port)) = shown.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let same_host = own.ip().is_unspecified() || host.is_ok_and(|host| host == own.ip());
    let is_name = !shown.starts_with('[')
        && shown.rsplit_once(':').is_some_and(|(host, _)| host.parse::<IpAddr>().is_err());
    port.parse() == Ok(own.port()) && (is_name || same_host)
}

pub(super) fn in_range<T: PartialOrd + Display>(
    key: &'static str,
    found: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(value(key, &format!("from {} to {}", range.start(), range.end()), found))
}
