//! Recognising nodes by their certificates. A certificate must be signed by one of the authorities and name
//! one node in a URI; hosts and addresses do not matter between nodes, which may move.

use std::sync::Arc;

use quorate_protocol::name::NodeId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::certificate::Facts;
use super::verifier::{Believes, Chain};

/// Believes a node that is connected to: the one that is meant, or any that has a certificate.
#[derive(Clone, Debug)]
pub(super) struct DialledNode {
    pub(super) roots: Arc<RootCertStore>,
    /// The node that is meant; any of the authorities' nodes if none.
    pub(super) meant: Option<NodeId>,
}

impl Believes for DialledNode {
    fn check(
        &self,
        shown: Chain<'_>,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<(), Error> {
        is_signed(shown, &self.roots, provider, now)?;
        let found = node_of(shown.0)?;
        match self.meant {
            Some(meant) if meant != found => Err(Error::General(format!(
                "the certificate at this address is of node {found}, not of {meant}"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether one of the authorities has signed a certificate, perhaps by way of others, and it is valid now.
///
/// # Errors
/// Why not.
pub(super) fn is_signed(
    (end_entity, intermediates): Chain<'_>,
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

/// Accepts whoever connects with a certificate of a node. Whether that is a member is looked at later: one
/// that joins is none yet.
#[derive(Debug)]
pub(super) struct ArrivingNode(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ArrivingNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        node_of(end_entity).map(|_| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The node that a certificate names.
///
/// # Errors
/// If it cannot be read, or does not name exactly one.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let facts = Facts::of(certificate).map_err(Error::General)?;
    facts.node.ok_or_else(|| {
        Error::General(
            "the certificate names no node, or several (URI quorate-node:NAME)".to_owned(),
        )
    })
}
