//! An issuer of tests: it signs what it is asked to.

use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA512, RsaKeyPair,
};
use serde_json::json;

use super::*;

/// A private key for RSA in DER, made for these tests and used nowhere else: `ring` makes none.
const RSA: &str = concat!(
    "MIIEpAIBAAKCAQEAsETAHqaWnYzfUQtM9GE6QREcbw2sX1a43Lleh4FDZ4ID5dBTn2pde3UkojdYy7MY7TMxqLHjeC8EWuGPPcmN",
    "Ec8Tr69icNqXL/izgF7K6CrqIwqaAmwaRaJxK+KOM/peRSYSeJK7Cjcnc1J1FtR1mlcAEX96e3VkHHM07pVhqnVz6M01Zsny1yNu",
    "w+ZUYrPoH8qMqcqCf9CvHP2ymGthA+tiPb6y1g0fE/8oYi/ss7TgF/Ryq6K0fXjRx1I+79pvjxwTh3tOEVtrHTGyGuBzJTuD1PWi",
    "gvi0L5BJjBb9SNTcoUxVd72Oq5K9+9Ij4t4Dt4tXC0+b+g8bRJn3Hcw9DwIDAQABAoIBADFY9f4+viDafPSX+NHb3G615yNyDQVd",
    "5oAoxz2hYyj5vbSbh6W0Jfq3t2tQmmPgvoQ9llP3hUqywwHcbvkp0XwgYI8JR0J39+aetkYkg6LOzODFiYtPD2XaTduu4AfOOpEa",
    "UQZ/cayw9zLybURYc5ojbCn56eThXwcV+8YlfQO2yQzeQXFLUaKCJsHX/pDe2CqpdQusO+yO3nO1YNzs0XMHpEjygBOOf2FUq7jd",
    "jIJNhiWO/mlPfYAtXRwNhBkcZiZTw1qk4rWCscu7mDF9SZ0OC3Vs1m/PO1GBTCjgwqycm7FxUmZc/QS/crNZWtAdOSHB18u7+Zj9",
    "lHzLVHqJCukCgYEA87gbDHtIXOyGUt/bQs0tfQrqf+310XOvpBdhIVV2EOcLSCws6rx4wFdA5MFZCUJVSrYtBSW/WeMpwommd3qk",
    "hxyoQUUld/LrthOtcqu/S6sZhKNFDDlKO7Cd9I0Mbhu7WhmBMXY+/mcgUM/RS9DDsGCSiW9/NYvzNIQmqD7whgkCgYEAuSaODzme",
    "GzJQPSzmyuMI0G2SXw3CEfW3ecH2qr/KuwdWgFlKRd7CobMNYEl0tDbq3JNCx0jRXUW8SROfUS9JL+ylUQk62oeJns3nkLOKZi7z",
    "3levrpsIAueneP/IKCvG9BzqGOWTh4QAsMMpKJYKX759DC3cnkGG8q7meJzFMFcCgYEAtRRkHHj4wfoGr0qdyVtS4eYbZ2OxUabn",
    "qD6qry6lI1fW3Q/da6cO/LGXiJ9TfPqpDnKeroVmT+3lGCJX6cvYtH6JUL2EYkO9+DFUnK+Y2SrOMetxIOzsB79pDMtDoge+wunS",
    "QKK/mRucOg6+TdtVmhWWqsCJvoo18B4D7tucr6kCgYAdguW1y4tF7nkXpyaKRDHNdwmTmQ/L6Qx7nc0BXlyj/wFsp87M4DrJp06E",
    "gHDXoMFCsz47oYGtikX+p+AHArB5sRCQoBX/awcmhs9YIyX2L5mzYOqhvBhEzkPFZ4+xx3iIxGsT2NPxD7tEcXcH/xJcPHKWFGFL",
    "4EnwOKyHoQVVNQKBgQCUpUTjYuY611A72xoV+JhMYnNZW1Ji5osIEr2+n8i4QvVlJxa/V4O10wlp+WG+JjL7BFu6DtayW/I9iqQq",
    "d5jrRSIpA489FI1EMGcHF6Z1F0wQabuCt3eKbum+7Z9V8gGVi7FfwNIMVoZNFCansJszc7H1r07rHjJ4e/96N5rowg==",
);

/// A private key of the issuer.
pub(super) enum Private {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Private {
    pub(super) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_der(&STANDARD.decode(RSA).unwrap()).unwrap())
    }

    pub(super) fn p256() -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Self::P256(pair.unwrap())
    }

    pub(super) fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    /// Its entry in a JWK set.
    pub(super) fn public(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": encode(public.n), "e": encode(public.e)})
            }
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": x, "y": y})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(pair.public_key())})
            }
        }
    }

    /// A token of exactly these parts.
    pub(super) fn sign(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let encoding: &dyn ring::signature::RsaEncoding = match header["alg"].as_str() {
                    Some("PS512") => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                pair.sign(encoding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(signature))
    }
}
