//! HTTP clients of this program: for its own commands and what it sends elsewhere.

use std::path::Path;
use std::sync::Arc;

use quorate_engine::config::{Config, TlsMode};
use reqwest::ClientBuilder;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::files::read_file;
use super::load::{add_authorities, certificates};
use super::pinned::Pinned;
use super::provider;
use super::verifier::Verifier;

/// A client that uses no proxy and, over TLS, believes in nobody: for plain HTTP.
pub(crate) fn plain() -> ClientBuilder {
    trusting(RootCertStore::empty())
}

/// A client of the client port of the node with this configuration on this machine, and the scheme of its
/// URL. Over TLS it believes in the node's own certificate, whoever has signed it.
///
/// # Errors
/// What is wrong with the certificate, in words.
pub(crate) fn of_client_port(config: &Config) -> Result<(ClientBuilder, &'static str), String> {
    let tls = &config.client_tls;
    if tls.mode != TlsMode::Require {
        return Ok((plain(), "http"));
    }
    let named = |path: &Path, why: String| format!("{}: {why}", path.display());
    let read = |path: &Path, is_secret| read_file(path, is_secret).map_err(|why| named(path, why));
    let chain = certificates(&read(&tls.cert, false)?, 16).map_err(|why| named(&tls.cert, why))?;
    let shown = chain.first().cloned().ok_or("there is no certificate")?;
    let verifier = Verifier { believes: Pinned(shown), provider: provider() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    if tls.ca.is_empty() {
        return Ok((with(builder.with_no_client_auth()), "https"));
    }
    // The node asks clients for certificates; its own is one.
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key, true)?)
        .map_err(|error| named(&tls.key, error.to_string()))?;
    let config = builder.with_client_auth_cert(chain, key);
    Ok((with(config.map_err(|error| named(&tls.key, error.to_string()))?), "https"))
}

/// A client that uses no proxy and believes whom the system believes.
pub(crate) fn trusting_system() -> ClientBuilder {
    // reqwest asks for the process's provider. It is a no-op but for the first time.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy()
}

/// A client that uses no proxy and believes the authorities in a file. Blocks.
///
/// # Errors
/// What is wrong with the file, in words.
pub(crate) fn trusting_file(path: &Path) -> Result<ClientBuilder, String> {
    let mut roots = RootCertStore::empty();
    add_authorities(&mut roots, &read_file(path, false)?)?;
    Ok(trusting(roots))
}

fn trusting(roots: RootCertStore) -> ClientBuilder {
    match ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions() {
        Ok(builder) => with(builder.with_root_certificates(roots).with_no_client_auth()),
        // The provider has the default versions.
        Err(_) => reqwest::Client::builder().no_proxy(),
    }
}

fn with(config: ClientConfig) -> ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config)
}
