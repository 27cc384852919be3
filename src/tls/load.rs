//! What rustls needs for a port, made of the contents of its files and checked as a whole.

use std::path::Path;
use std::sync::Arc;

use quorate_engine::config::TlsConfig;
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::certificate::Facts;
use super::files::Contents;
use super::node_names::{ArrivingNode, DialledNode, is_signed};
use super::verifier::Verifier;
use super::{Port, provider};

/// The most certificates in a chain, and the most authorities.
const CHAIN_MAX: usize = 16;
const AUTHORITIES_MAX: usize = 256;
/// The application protocols.
const HTTP_1: &[u8] = b"http/1.1";
pub(super) const HTTP_2: &[u8] = b"h2";

/// Why the files of a port cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {path}: {why}")]
pub struct TlsError {
    /// The setting, with its table.
    setting: String,
    /// The file.
    path: String,
    /// What is wrong, and what to do.
    why: String,
}

impl TlsError {
    /// A file of this setting (`cert`, `key`, `ca`) cannot be used.
    pub(super) fn new(port: Port, setting: &str, path: &Path, why: impl Into<String>) -> Self {
        let setting = format!("{}_tls.{setting}", port.name());
        Self { setting, path: path.display().to_string(), why: why.into() }
    }
}

/// What a port has loaded.
pub(crate) struct Loaded {
    /// For connections from others.
    pub(crate) server: Arc<ServerConfig>,
    /// For connections to peers; `None` on the client port.
    dialling: Option<Dialling>,
    /// When the certificate expires.
    pub(crate) expires: WallTime,
    /// What it was made of.
    pub(super) contents: Contents,
}

/// What is the same for connections to all peers.
struct Dialling {
    base: ClientConfig,
    roots: Arc<RootCertStore>,
}

impl Loaded {
    /// Makes it of the contents of files, at this time.
    ///
    /// # Errors
    /// [`TlsError`] that names the file.
    pub(super) fn new(
        (port, settings): (Port, &TlsConfig),
        node: NodeId,
        contents: Contents,
        now: WallTime,
    ) -> Result<Self, TlsError> {
        let wrong =
            |setting: &str, path: &Path, why: String| TlsError::new(port, setting, path, why);
        let of_cert = |why: String| wrong("cert", &settings.cert, why);
        let (own, facts) = own(&contents).map_err(|(setting, why)| match setting {
            "key" => wrong("key", &settings.key, why),
            _ => of_cert(why),
        })?;
        if let Some(why) = facts.not_valid_at(now) {
            return Err(of_cert(why));
        }
        fits(port, node, &facts).map_err(of_cert)?;
        let mut roots = RootCertStore::empty();
        for (path, pem) in &contents.ca {
            add_authorities(&mut roots, pem).map_err(|why| wrong("ca", path, why))?;
        }
        let roots = Arc::new(roots);
        let provider = provider();
        if port == Port::Peer {
            is_own_signed(&own, &roots, &provider, now).map_err(|why| {
                of_cert(format!("none of the authorities in peer_tls.ca has signed it: {why}"))
            })?;
        }
        let arriving = arriving(port, &roots, &provider)
            .map_err(|why| TlsError::new(port, "ca", &first(&settings.ca), why))?;
        let own = Arc::new(SingleCertAndKey::from(own));
        let server = server(port, arriving, own.clone(), &provider).map_err(of_cert)?;
        let dialling = match port {
            Port::Client => None,
            Port::Peer => Some(Dialling::new(roots, own, provider).map_err(of_cert)?),
        };
        Ok(Self { server: Arc::new(server), dialling, expires: facts.expires, contents })
    }

    /// For a connection to a peer: the one that is meant, or any node.
    pub(crate) fn to_peer(&self, meant: Option<NodeId>) -> Option<ClientConfig> {
        let Dialling { base, roots } = self.dialling.as_ref()?;
        let mut config = base.clone();
        let believes = DialledNode { roots: roots.clone(), meant };
        let verifier = Verifier { believes, provider: base.crypto_provider().clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Some(config)
    }
}

/// The node's own certificate with its key.
fn own(contents: &Contents) -> Result<(CertifiedKey, Facts), (&'static str, String)> {
    let chain = certificates(&contents.cert, CHAIN_MAX).map_err(|why| ("cert", why))?;
    let facts = chain.first().map(|own| Facts::of(own));
    let facts = facts.unwrap_or_else(|| Err("there is no certificate in it".to_owned()));
    let facts = facts.map_err(|why| ("cert", why))?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| ("key", format!("there is no usable private key in it: {error}")))?;
    let own = CertifiedKey::from_der(chain, key, &provider());
    let own =
        own.map_err(|error| ("key", format!("it is not the key of the certificate: {error}")))?;
    Ok((own, facts))
}

/// Whether a certificate says what its port needs.
fn fits(port: Port, node: NodeId, facts: &Facts) -> Result<(), String> {
    if facts.is_authority {
        return Err("it is the certificate of an authority, not of a node".to_owned());
    }
    match port {
        Port::Peer if facts.node != Some(node) => {
            let found = match facts.node {
                Some(other) => format!("it is of node {other}"),
                None => "it names no node".to_owned(),
            };
            Err(format!("{found}, not of {node}: `quorate ca issue --node {node}` makes one"))
        }
        Port::Client if facts.hosts.is_empty() && facts.addresses.is_empty() => {
            Err("it names no host, so that no client would accept it: `quorate ca issue --host …`"
                .to_owned())
        }
        Port::Peer | Port::Client => Ok(()),
    }
}

/// The certificates in a PEM file, at most so many.
pub(crate) fn certificates(
    pem: &[u8],
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if found.len() >= most {
            return Err(format!("it has more than {most} certificates"));
        }
        found.push(certificate.map_err(|error| format!("not PEM: {error}"))?);
    }
    if found.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(found)
}

pub(super) fn add_authorities(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    for certificate in certificates(pem, AUTHORITIES_MAX)? {
        if !Facts::of(&certificate)?.is_authority {
            return Err("a certificate in it is not of an authority".to_owned());
        }
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.len() > AUTHORITIES_MAX {
        true => Err(format!("there are more than {AUTHORITIES_MAX} authorities in all")),
        false => Ok(()),
    }
}

/// Whether other nodes would accept this node's own certificate.
fn is_own_signed(
    own: &CertifiedKey,
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: WallTime,
) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
    let chain = (own.end_entity_cert()?, own.cert.get(1..).unwrap_or_default());
    is_signed(chain, roots, provider, now)
}

/// Who may connect; on the client port anybody, unless there are authorities.
fn arriving(
    port: Port,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if roots.is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let chain = builder.build().map_err(|error| error.to_string())?;
    Ok(match port {
        Port::Client => chain,
        Port::Peer => Arc::new(ArrivingNode(chain)),
    })
}

fn server(
    port: Port,
    arriving: Arc<dyn ClientCertVerifier>,
    own: Arc<dyn ResolvesServerCert>,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, String> {
    let versions = match port {
        Port::Client => vec![&TLS13, &TLS12],
        Port::Peer => vec![&TLS13],
    };
    let is_anybody = !arriving.offer_client_auth();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(arriving)
        .with_cert_resolver(own);
    config.alpn_protocols = match port {
        Port::Client => vec![HTTP_2.to_vec(), HTTP_1.to_vec()],
        Port::Peer => vec![HTTP_1.to_vec()],
    };
    if !is_anybody {
        // A session that is resumed would not show a certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

impl Dialling {
    fn new(
        roots: Arc<RootCertStore>,
        own: Arc<dyn ResolvesClientCert>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let believes = DialledNode { roots: roots.clone(), meant: None };
        let any = Verifier { believes, provider: provider.clone() };
        let mut base = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .dangerous() // the name of the node is verified instead of the host's
            .with_custom_certificate_verifier(Arc::new(any))
            .with_client_cert_resolver(own);
        base.resumption = Resumption::disabled(); // every connection verifies the certificates of today
        base.enable_sni = false;
        base.alpn_protocols = vec![HTTP_1.to_vec()];
        Ok(Self { base, roots })
    }
}

fn first(files: &[std::path::PathBuf]) -> std::path::PathBuf {
    files.first().cloned().unwrap_or_default()
}
