//! Believing one certificate alone: that of the node itself, by a program that can read its configuration.

use rustls::Error;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::verifier::{Believes, Chain};

/// Believes an end that has the key of this certificate, whatever that says.
#[derive(Debug)]
pub(super) struct Pinned(pub(super) CertificateDer<'static>);

impl Believes for Pinned {
    fn check(
        &self,
        (end_entity, _): Chain<'_>,
        _provider: &CryptoProvider,
        _now: UnixTime,
    ) -> Result<(), Error> {
        match *end_entity == self.0 {
            true => Ok(()),
            false => Err(Error::General(
                "what listens there does not have the certificate in client_tls.cert".to_owned(),
            )),
        }
    }
}
