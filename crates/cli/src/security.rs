//! How a command proves who it is, and whom it believes.

use std::path::{Path, PathBuf};

use quorate_client::ClientBuilder;

use crate::args::{Common, Secret};
use crate::exit::{Done, Failure};
use crate::nodes::MakeToken;

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A token, authorities, and a certificate with its key; each only if it was given.
#[derive(Clone, Default)]
pub(crate) struct Security {
    token: Option<Token>,
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone)]
enum Token {
    Given(Secret),
    /// Signed for every request.
    Signed(MakeToken),
}

impl std::fmt::Debug for Security {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Security")
    }
}

impl Security {
    /// What the arguments and the environment give. `signed` makes an operator's tokens, if there is one:
    /// they count more than that of the environment.
    ///
    /// # Errors
    /// Usage: a file that cannot be read, and where its name stands.
    pub(crate) fn new(common: &Common, signed: Option<MakeToken>) -> Done<Self> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = |given: &Option<PathBuf>, option: &str, variable: &str| {
            let (path, place) = match (given, env(variable)) {
                (Some(path), _) => (path.clone(), option),
                (None, Some(path)) => (path.into(), variable),
                (None, None) => return Ok(None),
            };
            let contents = read(&path)
                .map_err(|error| Failure::usage(format!("{place}: {}: {error}", path.display())))?;
            Ok::<_, Failure>(Some(contents))
        };
        let cert = file(&common.cert, "--cert", "QUORATE_CERT")?;
        let key = file(&common.key, "--key", "QUORATE_KEY")?;
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--cert and --key belong together").into());
            }
        };
        let authorities = file(&common.ca, "--ca", "QUORATE_CA")?;
        let given = common.token.clone().map(Token::Given);
        let token = given
            .or(signed.map(Token::Signed))
            .or_else(|| env("QUORATE_TOKEN").map(|token| Token::Given(Secret(token))));
        Ok(Self { token, authorities, identity })
    }

    /// A client of these nodes. Plain HTTP has no use for authorities: they may be set for other clusters.
    pub(crate) fn applied_to(&self, builder: ClientBuilder, urls: &[String]) -> ClientBuilder {
        let mut builder = builder;
        match &self.token {
            Some(Token::Given(token)) => builder = builder.token(token.0.clone()),
            Some(Token::Signed(make)) => {
                let make = make.clone();
                builder = builder.token_maker(move || make());
            }
            None => {}
        }
        if !urls.iter().any(|url| url.starts_with("https:")) {
            return builder;
        }
        if let Some(authorities) = &self.authorities {
            builder = builder.authority(authorities.clone());
        }
        if let Some((chain, key)) = &self.identity {
            builder = builder.identity(chain.clone(), key.clone());
        }
        builder
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut contents = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    match contents.len() as u64 > FILE_BYTES_MAX {
        true => Err(std::io::Error::other("it is longer than 1 MiB")),
        false => Ok(contents),
    }
}
