//! Certificates of the ports that speak TLS.

use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;

const EXPIRY: Desc = Desc::gauge(
    "quorate_certificate_expiry_seconds",
    "Time until the certificate of a port expires, negative once it has",
)
.by(&["use"])
.means("`quorate ca renew` makes a new one in its place, which the node loads by itself.");
const RELOAD_FAILED: Desc = Desc::gauge(
    "quorate_tls_reload_failed",
    "1 while the certificate, key or authorities in the files of a port cannot be used",
)
.by(&["use"])
.means("The node goes on with those that it loaded before; its log says what is wrong with the new ones.");
const HANDSHAKES_FAILED: Desc = Desc::counter(
    "quorate_tls_handshakes_failed_total",
    "Connections to a port whose TLS handshake failed",
)
.by(&["use"])
.means(
    "The other end does not believe this node's certificate, or has none that this node believes.",
);

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "TLS",
    about: "Of the ports whose `mode` is not \"off\".",
    metrics: &[EXPIRY, RELOAD_FAILED, HANDSHAKES_FAILED],
};

/// Writes the metrics of certificates.
pub(super) fn write(out: &mut Writer, node: &Node) {
    let now = node.now();
    let states = node.host.certificates.as_ref().map(|it| it.list()).unwrap_or_default();
    let left = |expires_ms: u64| (expires_ms as f64 - now.0 as f64) / 1000.0;
    let mut expiry = out.metric(&EXPIRY);
    states.iter().for_each(|state| expiry.value(&[state.port], left(state.expires.0)));
    let mut failed = out.metric(&RELOAD_FAILED);
    states.iter().for_each(|state| failed.value(&[state.port], u64::from(state.reload_failed)));
    let mut handshakes = out.metric(&HANDSHAKES_FAILED);
    states.iter().for_each(|state| handshakes.value(&[state.port], state.handshakes_failed));
}
