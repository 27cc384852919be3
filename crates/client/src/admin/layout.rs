//! What operators ask about the layout, and how they change it.

use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{Admin, Ask};
use crate::error::Error;

impl Admin {
    /// The members, and how far a change of them is.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn layout(&self) -> Result<Json, Error> {
        self.get("/layout").await
    }

    /// What some changes would come to; writes nothing. The body is that of `POST /layout/plan`: `changes`,
    /// and `base` and `gone` if wanted.
    ///
    /// # Errors
    /// [`Error`]; the problem `layout_changed` if `base` is not in force.
    pub async fn plan_layout(&self, wanted: &Json) -> Result<Json, Error> {
        let mut ask = Ask::of(Method::POST, "/layout/plan");
        ask.writes = false;
        ask.body = Some(wanted.clone());
        self.ask(ask).await?.json()
    }

    /// Begins a change that was planned. The body is that of `POST /layout/commit`: `base`, `result` and
    /// `changes`, and `gone` and `accept` if needed. May be repeated if the outcome is unknown.
    ///
    /// # Errors
    /// [`Error`]; the problems `layout_changed`, `layout_moving` and `layout_unsafe` say why not.
    pub async fn commit_layout(&self, agreed: &Json) -> Result<Json, Error> {
        let mut ask = Ask::of(Method::POST, "/layout/commit");
        ask.body = Some(agreed.clone());
        let begun = self.ask(ask).await?.json()?;
        self.client.inner.look_again_soon(); // where keys are changes
        Ok(begun)
    }

    /// Gives up the change that began with the record `base`. Nodes that join and are `lost` with it need not
    /// hand over what they hold.
    ///
    /// # Errors
    /// [`Error`]; the problems `layout_changed` and `layout_not_moving` say why not.
    pub async fn abort_layout(&self, base: &str, lost: &[String]) -> Result<Json, Error> {
        let mut ask = Ask::of(Method::POST, "/layout/abort");
        ask.body = Some(json!({"base": base, "lost": lost}));
        let ended = self.ask(ask).await?.json()?;
        self.client.inner.look_again_soon();
        Ok(ended)
    }

    /// Lets a node go that was leaving and is dead for good, by the record `base`. What it had not handed
    /// over is lost. May be repeated.
    ///
    /// # Errors
    /// [`Error`]; the problem `layout_unsafe` if the node answers a member.
    pub async fn release_lost(&self, base: &str, node: &str) -> Result<Json, Error> {
        let mut ask = Ask::of(Method::POST, "/layout/release");
        ask.body = Some(json!({"base": base, "node": node, "lost": true}));
        self.ask(ask).await?.json()
    }

    /// The last cluster records, newest first; at most `limit`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn layout_history(&self, limit: Option<u16>) -> Result<Json, Error> {
        self.ask(Ask::get("/layout/history").with("limit", limit)).await?.json()
    }

    /// The layout once its epoch is at least `epoch` and its phase is `phase` (`stable`, `moving` or
    /// `releasing`); `None` if that is not so within `timeout_ms`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn wait_layout(
        &self,
        epoch: Option<u64>,
        phase: Option<&str>,
        timeout_ms: Option<u64>,
    ) -> Result<Option<Json>, Error> {
        let ask = Ask::get("/layout/wait").with("epoch", epoch).with("phase", phase);
        let answer = self.ask(ask.within(timeout_ms)).await?;
        match answer.status.as_u16() {
            204 => Ok(None),
            _ => answer.json().map(Some),
        }
    }
}
