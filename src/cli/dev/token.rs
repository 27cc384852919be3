//! The token of `quorate dev --auth`: kept beside the nodes, and made when there is none that works.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{DevError, LOOK_EVERY};
use crate::cli::node_file::operator_token;
use crate::config::Config;
use crate::tls::files::read_file;
use crate::tls::own_client;
use crate::tls::private_file::{SECRET, create};

/// Where the token is, below the directory.
const FILE: &str = "token";

/// A token that may do everything: that of an earlier start if it is good, else a new one.
///
/// # Errors
/// [`DevError::Token`] if none is to be had within `patience`.
pub(super) async fn make(
    dir: &Path,
    config: &Config,
    patience: Duration,
) -> Result<String, DevError> {
    let (client, scheme) = own_client::of_client_port(config).map_err(DevError::Client)?;
    let client = client.build().map_err(|error| DevError::Client(error.to_string()))?;
    let url = |path: &str| format!("{scheme}://{}{path}", config.client_addr);
    let (file, deadline) = (dir.join(FILE), Instant::now() + patience);
    let known = read_file(&file, true).ok().and_then(|text| String::from_utf8(text).ok());
    if let Some(known) = known {
        let asking = |client: &Client| client.get(url("/auth/whoami")).bearer_auth(&known);
        if answer(&client, asking, deadline).await?.0.is_success() {
            return Ok(known);
        }
    }
    let operator = operator_token(config).map_err(DevError::Token)?;
    let wanted = json!({"name": "dev", "scopes": [{"actions": ["admin"]}]}).to_string();
    let asking = |client: &Client| {
        let request = client.post(url("/auth/tokens")).bearer_auth(&operator);
        request.header("content-type", "application/json").body(wanted.clone())
    };
    let (status, told) = answer(&client, asking, deadline).await?;
    let token = told["token"].as_str().filter(|_| status == StatusCode::CREATED);
    let token = token.ok_or_else(|| DevError::Token(told["detail"].to_string()))?;
    drop(std::fs::remove_file(&file)); // of an earlier cluster, or one that was revoked
    let files = |source| DevError::Files { path: file.clone(), source };
    create(&file, SECRET, token.as_bytes()).map_err(files)?;
    Ok(token.to_owned())
}

/// The answer to a request, which is repeated while the node is not ready for it.
async fn answer(
    client: &Client,
    asking: impl Fn(&Client) -> RequestBuilder,
    deadline: Instant,
) -> Result<(StatusCode, Value), DevError> {
    let failed = |error: reqwest::Error| DevError::Token(error.to_string());
    loop {
        let answer = asking(client).send().await.map_err(failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?;
        if status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() > deadline {
            return Ok((status, serde_json::from_slice(&body).unwrap_or_default()));
        }
        sleep(LOOK_EVERY).await;
    }
}
