//! Tokens: who may do what.

use reqwest::Method;
use serde_json::Value as Json;

use super::{Admin, Ask};
use crate::error::Error;
use crate::path::escaped;

impl Admin {
    /// `POST /auth/tokens`: makes a token of `{"name", "scopes", "expires_in_ms", "rate_per_s"}`. The answer
    /// has it as `token`, once and never again. Not sent twice: each time makes another token.
    ///
    /// # Errors
    /// [`Error::Denied`] if it would give more than this client's own token does.
    pub async fn make_token(&self, wanted: &Json) -> Result<Json, Error> {
        let ask = Ask::of(Method::POST, "/auth/tokens");
        self.ask(Ask { body: Some(wanted.clone()), once: true, ..ask }).await?.json()
    }

    /// `GET /auth/tokens`: the tokens that were not revoked, without their secrets.
    ///
    /// # Errors
    /// [`Error::Denied`] without the action `admin:auth`.
    pub async fn tokens(&self) -> Result<Json, Error> {
        self.ask(Ask::get("/auth/tokens")).await?.json()
    }

    /// `DELETE /auth/tokens/{id}`: revokes a token. When this returns, a majority of the nodes knows of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such token; [`Error::Failed`] (`no_token_quorum`) if too few nodes
    /// could be told: it is to be repeated.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let path = format!("/auth/tokens/{}", escaped(id));
        self.ask(Ask::of(Method::DELETE, &path)).await.map(drop)
    }

    /// `GET /auth/whoami`: what this client's token is and allows.
    ///
    /// # Errors
    /// [`Error::Denied`] if it is not accepted.
    pub async fn whoami(&self) -> Result<Json, Error> {
        self.ask(Ask::get("/auth/whoami")).await?.json()
    }
}
