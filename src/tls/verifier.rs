//! Verifies the other end of a connection that is opened here: that it has the key of its certificate, by the
//! cryptography that all TLS here uses. Which certificate is the right one, `node_names` and `pinned` say.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// A certificate, and those on the way from it to an authority.
pub(super) type Chain<'a> = (&'a CertificateDer<'a>, &'a [CertificateDer<'a>]);

/// Which certificate is the right one.
pub(super) trait Believes: Debug + Send + Sync {
    /// Checks what the other end shows: its certificate, and those on the way to an authority.
    ///
    /// # Errors
    /// Why it is not believed.
    fn check(
        &self,
        shown: Chain<'_>,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// Accepts an end that shows the right certificate and has its key, whatever its host is called.
#[derive(Debug)]
pub(super) struct Verifier<B> {
    /// Which one is right.
    pub(super) believes: B,
    /// What signatures are verified with.
    pub(super) provider: Arc<CryptoProvider>,
}

impl<B: Believes> ServerCertVerifier for Verifier<B> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.believes.check((end_entity, intermediates), &self.provider, now);
        checked.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
