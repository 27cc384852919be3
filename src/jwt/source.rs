//! Where the issuer's keys come from: a file, or an https URL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use quorate_engine::config::JwtConfig;
use reqwest::redirect::Policy;
use tokio::task::spawn_blocking;

use super::keys::SET_BYTES_MAX;
use crate::tls::files::read_file;
use crate::tls::own_client;

/// How long a URL may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A place that has the keys.
pub(super) enum Source {
    /// A file.
    File(PathBuf),
    /// A URL, asked by this client: over TLS alone, without proxies, and without being sent elsewhere.
    Url(reqwest::Client, String),
}

impl Source {
    /// As configured. Reads the authorities of a URL. Blocks.
    ///
    /// # Errors
    /// Why the URL cannot be asked, in words.
    pub(super) fn new(config: &JwtConfig) -> Result<Self, String> {
        if !config.is_at_url() {
            return Ok(Self::File(PathBuf::from(&config.keys)));
        }
        let builder = match config.ca.as_os_str().is_empty() {
            true => own_client::trusting_system(),
            false => own_client::trusting_file(&config.ca).map_err(|why| at(&config.ca, &why))?,
        };
        let builder = builder.https_only(true).redirect(Policy::none()).timeout(ANSWER_WITHIN);
        let client = builder.build().map_err(|error| format!("the HTTP client: {error}"))?;
        Ok(Self::Url(client, config.keys.clone()))
    }

    /// Reads the set if it is in a file. Blocks.
    ///
    /// # Errors
    /// Why that is not possible, in words.
    pub(super) fn read_file(&self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::File(path) => read_now(path).map(Some),
            Self::Url(..) => Ok(None),
        }
    }

    /// Reads the set as it is now.
    ///
    /// # Errors
    /// Why that is not possible, in words.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = spawn_blocking(move || read_now(&path)).await;
                read.unwrap_or_else(|_| Err("the reading thread is gone".to_owned()))
            }
            Self::Url(client, url) => fetch(client, url).await,
        }
    }
}

/// Reads a file. Blocks.
fn read_now(path: &Path) -> Result<Vec<u8>, String> {
    read_file(path, false).map_err(|why| at(path, &why))
}

fn at(path: &Path, why: &str) -> String {
    format!("{}: {why}", path.display())
}

/// Fetches a set, of which no more is kept than one may have.
async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| format!("{:#}", anyhow::Error::new(error)); // with its causes
    let answer =
        client.get(url).header("accept", "application/json").send().await.map_err(failed)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(format!("{url} answered {}", answer.status()));
    }
    let (mut text, mut body) = (Vec::new(), answer.bytes_stream());
    while let Some(piece) = body.next().await {
        text.extend_from_slice(&piece.map_err(failed)?);
        if text.len() > SET_BYTES_MAX {
            return Err(format!("{url} answered more than {SET_BYTES_MAX} bytes"));
        }
    }
    Ok(text)
}
