//! TLS of a client: whom it believes, and what it shows.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::error::Error;

/// What was given to the builder.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    /// Authorities, in PEM; those of the system if there are none.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// The client's certificate chain and its key, in PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for TlsSettings {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has_identity = self.identity.is_some();
        write!(f, "TlsSettings({} authorities, identity: {has_identity})", self.authorities.len())
    }
}

impl TlsSettings {
    /// Whether they only make sense for `https://`.
    pub(crate) fn is_any(&self) -> bool {
        !self.authorities.is_empty() || self.identity.is_some()
    }

    /// What connections use. The system's authorities are only read if they are needed.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names what cannot be used.
    pub(crate) fn config(&self, is_used: bool) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("TLS", error.to_string()))?;
        let builder = if is_used && self.authorities.is_empty() {
            let verified = builder.with_platform_verifier();
            verified.map_err(|error| {
                let detail = format!("cannot read the system's: {error}; give the cluster's own");
                Error::invalid("authorities", detail)
            })?
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let Some((chain, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| Error::invalid("identity", format!("the key: {error}")))?;
        let config = builder.with_client_auth_cert(certificates(chain, "identity")?, key);
        config.map_err(|error| Error::invalid("identity", error.to_string()))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for pem in &self.authorities {
            for authority in certificates(pem, "authorities")? {
                let added = roots.add(authority);
                added.map_err(|error| Error::invalid("authorities", error.to_string()))?;
            }
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| Error::invalid(what, format!("not PEM: {error}")))?;
    match found.is_empty() {
        true => Err(Error::invalid(what, "there is no certificate in PEM")),
        false => Ok(found),
    }
}
