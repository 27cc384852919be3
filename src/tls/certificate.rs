//! What a certificate says.

use std::net::IpAddr;

use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// What the URI of a node's certificate begins with; its name follows.
pub(crate) const NODE_URI: &str = "quorate-node:";
/// The same of a client's certificate.
pub(crate) const CLIENT_URI: &str = "quorate-client:";

/// What matters of a certificate here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The node that it names; `None` if it names none, or several.
    pub(crate) node: Option<NodeId>,
    /// All URIs.
    pub(crate) uris: Vec<String>,
    /// DNS names.
    pub(crate) hosts: Vec<String>,
    /// IP addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// When it begins to be valid.
    pub(crate) valid_from: WallTime,
    /// When it expires.
    pub(crate) expires: WallTime,
    /// Whether it is an authority's.
    pub(crate) is_authority: bool,
}

impl Facts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn of(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("not a readable certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| format!("its subject alternative names: {error}"))?;
        let validity = certificate.validity();
        let mut facts = Self {
            node: None,
            uris: Vec::new(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            valid_from: wall_time(validity.not_before.timestamp()),
            expires: wall_time(validity.not_after.timestamp()),
            is_authority: certificate.is_ca(),
        };
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::URI(uri) = name {
                facts.uris.push((*uri).to_owned());
            } else if let GeneralName::DNSName(host) = name {
                facts.hosts.push((*host).to_owned());
            } else if let GeneralName::IPAddress(bytes) = name {
                facts.addresses.extend(address(bytes));
            }
        }
        facts.node = node_in(&facts.uris);
        Ok(facts)
    }

    /// Why it is not valid at this time, in words.
    pub(crate) fn not_valid_at(&self, now: WallTime) -> Option<String> {
        if now < self.valid_from {
            let s = self.valid_from.0.saturating_sub(now.0) / 1000;
            return Some(format!("it is not valid yet, for {s} s; is this machine's clock right?"));
        }
        (now > self.expires).then(|| {
            let days = now.0.saturating_sub(self.expires.0) / 86_400_000;
            format!("it expired {days} days ago: `quorate ca renew` makes a new one in its place")
        })
    }
}

/// The one node that these name.
fn node_in(uris: &[String]) -> Option<NodeId> {
    let mut nodes = uris.iter().filter_map(|uri| uri.strip_prefix(NODE_URI));
    let node = NodeId::parse(nodes.next()?).ok()?;
    nodes.next().is_none().then_some(node)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let of_four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    of_four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Certificates before 1970 are not told apart.
fn wall_time(seconds: i64) -> WallTime {
    WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}
