//! A client: one request, one answer, as in the HTTP contract.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

/// One node's client port.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) http: reqwest::Client,
    pub(crate) base: String,
    /// How long a client waits for an answer.
    pub(crate) timeout: Duration,
}

impl Node {
    /// A node with the timeout of an ordinary client.
    pub(crate) fn new(http: reqwest::Client, base: String) -> Self {
        Self { http, base, timeout: Duration::from_secs(15) }
    }

    /// The same with another timeout.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(crate) fn get(&self, path: &str) -> Ask {
        self.ask(Method::GET, path)
    }

    pub(crate) fn put(&self, path: &str) -> Ask {
        self.ask(Method::PUT, path)
    }

    pub(crate) fn post(&self, path: &str) -> Ask {
        self.ask(Method::POST, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Ask {
        self.ask(Method::DELETE, path)
    }

    fn ask(&self, method: Method, path: &str) -> Ask {
        let url = format!("{}{path}", self.base);
        Ask(self.http.request(method, url).timeout(self.timeout))
    }
}

/// A request being built.
pub(crate) struct Ask(reqwest::RequestBuilder);

impl Ask {
    pub(crate) fn value(self, value: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(value))
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// Sends back the context of what the client saw, if any.
    pub(crate) fn context(self, context: Option<&str>) -> Self {
        match context {
            Some(context) => self.header("Quorate-Context", context),
            None => self,
        }
    }

    /// The answer; fails the test if there is none.
    pub(crate) async fn answer(self) -> Answer {
        self.try_answer().await.unwrap()
    }

    /// The answer, if one came.
    pub(crate) async fn try_answer(self) -> reqwest::Result<Answer> {
        let response = self.0.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        Ok(Answer { status, headers, body: response.bytes().await? })
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    body: Bytes,
}

/// Counts requests that failed, by reason.
#[derive(Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<String, usize>>);

impl Reasons {
    /// Counts a request, if it failed.
    pub(crate) fn note(&self, answer: &reqwest::Result<Answer>) {
        let reason = match answer {
            Ok(answer) if answer.status < 500 => return,
            Ok(answer) => answer.problem(),
            Err(error) if error.is_connect() => "no connection".to_owned(),
            Err(error) if error.is_timeout() => "no answer in time".to_owned(),
            Err(_) => "connection lost".to_owned(),
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }

    /// All reasons, with how many requests failed for each.
    pub(crate) fn all(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One sibling in an answer. A single value comes without its dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    pub(crate) value: String,
    pub(crate) dot: Option<String>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// A header that holds a number.
    pub(crate) fn number(&self, name: &str) -> u16 {
        let text = self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        text.parse().unwrap()
    }

    pub(crate) fn context(&self) -> Option<&str> {
        self.header("Quorate-Context")
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The kind of the problem that a failed request reports.
    fn problem(&self) -> String {
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        format!("{} {}", self.status, kind.rsplit(':').next().unwrap_or_default())
    }

    /// The outcome that a failed write reports.
    pub(crate) fn outcome(&self) -> String {
        let outcome = &self.json()["outcome"];
        outcome.as_str().unwrap_or_else(|| panic!("no outcome in {}", self.text())).to_owned()
    }

    /// The values that a read shows.
    pub(crate) fn siblings(&self) -> Vec<Shown> {
        match self.status {
            200 => vec![Shown { value: self.text(), dot: None }],
            300 => siblings_in(&self.json()["siblings"]),
            404 => Vec::new(),
            _ => panic!("no read: {} {}", self.status, self.text()),
        }
    }
}

/// The siblings of a JSON list.
pub(crate) fn siblings_in(list: &Value) -> Vec<Shown> {
    let text = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    let shown = |s: &Value| Shown { value: text(s, "value"), dot: Some(text(s, "dot")) };
    list.as_array().unwrap().iter().map(shown).collect()
}
