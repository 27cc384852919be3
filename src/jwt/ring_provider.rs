//! The signatures of `jsonwebtoken`, verified by `ring`. Nothing is signed here, and there is no HMAC: a
//! public key can never pass for a secret.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, new_error};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as of_ring;

/// All that there is for RSA, by its parameters.
static RSA: [(Algorithm, &of_ring::RsaParameters); 6] = [
    (Algorithm::RS256, &of_ring::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &of_ring::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &of_ring::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &of_ring::RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &of_ring::RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &of_ring::RSA_PSS_2048_8192_SHA512),
];

/// The others.
static CURVES: [(Algorithm, &dyn of_ring::VerificationAlgorithm); 3] = [
    (Algorithm::ES256, &of_ring::ECDSA_P256_SHA256_FIXED),
    (Algorithm::ES384, &of_ring::ECDSA_P384_SHA384_FIXED),
    (Algorithm::EdDSA, &of_ring::ED25519),
];

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Makes it that of the process. Another time it does nothing.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

fn unsupported() -> Error {
    new_error(ErrorKind::UnsupportedAlgorithm)
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(unsupported())
}

/// Refuses a key of another family than the algorithm's.
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let is_known = RSA.iter().any(|(known, _)| known == algorithm)
        || CURVES.iter().any(|(known, _)| known == algorithm);
    if !is_known || key.family() != algorithm.family() {
        return Err(unsupported());
    }
    Ok(Box::new(ByRing { algorithm: *algorithm, key: key.clone() }))
}

struct ByRing {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], sent: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let found = RSA.iter().find(|(known, _)| *known == self.algorithm);
                let (_, parameters) = found.ok_or_else(signature::Error::new)?;
                of_ring::RsaPublicKeyComponents { n, e }.verify(parameters, message, sent)
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let found = CURVES.iter().find(|(known, _)| *known == self.algorithm);
                let (_, curve) = found.ok_or_else(signature::Error::new)?;
                of_ring::UnparsedPublicKey::new(*curve, point).verify(message, sent)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}
