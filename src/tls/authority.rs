//! An authority of a cluster's own, and the certificates that it signs (`quorate ca`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use quorate_protocol::name::NodeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::DnsName;
use time::{Duration, OffsetDateTime};

use super::certificate::{CLIENT_URI, Facts, NODE_URI};
use super::files::read_file;
use super::load::certificates;

/// The certificate of an authority, in its directory.
pub(crate) const CERT_FILE: &str = "ca.pem";
/// Its key, which stays there.
pub(crate) const KEY_FILE: &str = "ca.key";
/// Certificates are valid from so long ago: other machines' clocks may be behind.
const BACKDATED: Duration = Duration::minutes(5);
/// The longest name of a client, in characters.
const CLIENT_CHARS_MAX: usize = 64;

/// A certificate and its key, in PEM.
pub(crate) struct Made {
    /// The certificate.
    pub(crate) cert: String,
    /// The private key.
    pub(crate) key: String,
}

/// Whom a certificate is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A node, which clients reach at these hosts: both ports.
    Node(NodeId, Vec<String>),
    /// A client.
    Client(String),
}

impl Subject {
    /// Whom a certificate was made for.
    ///
    /// # Errors
    /// If it is of neither a node nor a client.
    pub(crate) fn of(facts: &Facts) -> Result<Self, String> {
        if facts.is_authority {
            return Err("it is the certificate of an authority, which is never replaced".to_owned());
        }
        let addresses = facts.addresses.iter().map(IpAddr::to_string);
        if let Some(node) = facts.node {
            return Ok(Self::Node(node, facts.hosts.iter().cloned().chain(addresses).collect()));
        }
        let client = facts.uris.iter().find_map(|uri| uri.strip_prefix(CLIENT_URI));
        let client = client.ok_or("it is of neither a node nor a client")?;
        Ok(Self::Client(client.to_owned()))
    }

    /// What is signed as its names.
    fn names(&self) -> Result<Vec<SanType>, String> {
        let text = |text: &str| {
            Ia5String::try_from(text).map_err(|_| format!("{text:?} has characters beyond ASCII"))
        };
        match self {
            Self::Node(node, hosts) => {
                let uri = SanType::URI(text(&format!("{NODE_URI}{node}"))?);
                let host = |host: &String| match host.parse::<IpAddr>() {
                    Ok(address) => Ok(SanType::IpAddress(address)),
                    Err(_) if DnsName::try_from(host.as_str()).is_ok() => {
                        Ok(SanType::DnsName(text(host)?))
                    }
                    Err(_) => {
                        Err(format!("{host:?} is neither an IP address nor the name of a host"))
                    }
                };
                [Ok(uri)].into_iter().chain(hosts.iter().map(host)).collect()
            }
            Self::Client(name) => {
                let is_fit = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
                if !(1..=CLIENT_CHARS_MAX).contains(&name.len()) || !name.chars().all(is_fit) {
                    return Err(format!(
                        "{name:?} is not 1 to 64 characters of A-Z a-z 0-9 . _ - @"
                    ));
                }
                Ok(vec![SanType::URI(text(&format!("{CLIENT_URI}{name}"))?)])
            }
        }
    }

    fn common_name(&self) -> String {
        match self {
            Self::Node(node, _) => node.to_string(),
            Self::Client(name) => name.clone(),
        }
    }
}

/// An authority with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    expires: OffsetDateTime,
}

impl Authority {
    /// A new one, valid for so many days, and its key in PEM.
    ///
    /// # Errors
    /// If no key can be made.
    pub(crate) fn new(days: u32) -> Result<(Self, Made), String> {
        let failed = |error: rcgen::Error| error.to_string();
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        // A number, so that two authorities in one file can be told apart.
        params.distinguished_name = named(&format!("Quorate CA {:08x}", rand::random::<u32>()));
        (params.not_before, params.not_after) = validity(days);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        let cert = params.self_signed(&key).map_err(failed)?.pem();
        let made = Made { cert, key: key.serialize_pem() };
        let expires = params.not_after;
        Ok((Self { issuer: Issuer::new(params, key), expires }, made))
    }

    /// The one in a directory. Blocks.
    ///
    /// # Errors
    /// What is missing or wrong there.
    pub(crate) fn load(dir: &Path) -> Result<Self, String> {
        let named =
            |path: &PathBuf, why: &dyn ToString| format!("{}: {}", path.display(), why.to_string());
        let (cert_file, key_file) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        let text = |path: &PathBuf, is_secret| {
            let bytes = read_file(path, is_secret).map_err(|why| named(path, &why))?;
            String::from_utf8(bytes).map_err(|_| named(path, &"not PEM"))
        };
        let (cert, key) = (text(&cert_file, false)?, text(&key_file, true)?);
        let of_cert = |why: String| named(&cert_file, &why);
        let chain = certificates(cert.as_bytes(), 1).map_err(of_cert)?;
        let facts = chain.first().map_or(Err("empty".to_owned()), |it| Facts::of(it));
        let facts = facts.map_err(of_cert)?;
        if !facts.is_authority {
            return Err(of_cert("it is not the certificate of an authority".to_owned()));
        }
        let key = KeyPair::from_pem(&key).map_err(|error| named(&key_file, &error))?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key);
        let issuer = issuer.map_err(|error| of_cert(error.to_string()))?;
        let seconds = i64::try_from(facts.expires.0 / 1000).unwrap_or(i64::MAX);
        let expires = OffsetDateTime::from_unix_timestamp(seconds);
        let expires = expires.map_err(|error| of_cert(error.to_string()))?;
        if expires <= OffsetDateTime::now_utc() {
            return Err(of_cert(
                "this authority has expired: make another with `quorate ca init`".to_owned(),
            ));
        }
        Ok(Self { issuer, expires })
    }

    /// A certificate with a new key, valid for so many days, but not longer than the authority.
    ///
    /// # Errors
    /// What is wrong with the names.
    pub(crate) fn issue(&self, subject: &Subject, days: u32) -> Result<Made, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        Ok(Made { cert: self.sign(subject, days, &key)?, key: key.serialize_pem() })
    }

    /// A certificate of this key (in PEM), as [`Self::issue`] makes.
    ///
    /// # Errors
    /// What is wrong with the key or the names.
    pub(crate) fn issue_again(
        &self,
        subject: &Subject,
        days: u32,
        key: &str,
    ) -> Result<String, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("the key: {error}"))?;
        self.sign(subject, days, &key)
    }

    fn sign(&self, subject: &Subject, days: u32, key: &KeyPair) -> Result<String, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&subject.common_name());
        params.subject_alt_names = subject.names()?;
        (params.not_before, params.not_after) = validity(days);
        params.not_after = params.not_after.min(self.expires);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject {
            Subject::Node(..) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Subject::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        let signed = params.signed_by(key, &self.issuer).map_err(|error| error.to_string())?;
        Ok(signed.pem())
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(days: u32) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - BACKDATED, now + Duration::days(days.into()))
}

/// A positive number of 16 bytes.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
