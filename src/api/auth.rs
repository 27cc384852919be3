//! `/auth`: tokens are made, listed and revoked, and say what they allow.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quorate_engine::cluster::token_change;
use quorate_engine::cluster::tokens::{InUse, TokensError, Wanted};
use quorate_engine::node::Node;
use quorate_protocol::access::{Scope, cover};
use quorate_protocol::time::WallTime;
use quorate_protocol::token::{Secret, TokenId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::route::Answer;
use super::who::Who;
use super::{body, conditions, represent, write};

/// The longest document that describes a token, in bytes of JSON.
const JSON_BYTES_MAX: usize = 16 << 10;
/// The longest time that a token may be given, in milliseconds: ten years.
const EXPIRES_IN_MS_MAX: u64 = 10 * 366 * 86_400_000;

/// A token as a client asks for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    name: String,
    scopes: Vec<Scope>,
    expires_in_ms: Option<u64>,
    rate_per_s: Option<u32>,
}

/// `POST /auth/tokens`: makes a token. Its secret is in this answer and nowhere else.
pub(super) async fn make(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = make_one(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn make_one(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, _pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let node = &gate.node;
    let Asked { name, scopes, expires_in_ms, rate_per_s } = body::parse_json(&text)?;
    if expires_in_ms.is_some_and(|ms| !(1..=EXPIRES_IN_MS_MAX).contains(&ms)) {
        let detail = format!("expires_in_ms: 1 to {EXPIRES_IN_MS_MAX}");
        return Err(Problem::new(Kind::BadBody, detail));
    }
    if gate.who.scopes().is_some_and(|own| !cover(own, &scopes)) {
        let detail = "a token gives only what it has: each scope must lie within one of its own";
        return Err(Problem::new(Kind::Forbidden, detail).fact("action", "admin:auth"));
    }
    let by = match &gate.who {
        Who::Token(found) => Some(found.id),
        Who::Subject(subject) => Some(subject.id),
        Who::Anyone | Who::Anonymous(_) | Who::Operator => None,
    };
    let (id, secret) = (TokenId::of(rand::random()), Secret::new(rand::random()));
    let expires = expires_in_ms.map(|ms| node.now().plus(ms));
    let wanted = Wanted { id, hash: secret.hash(), name, scopes, expires, rate_per_s, by };
    // A task of its own: a client that disconnects does not leave some nodes uninformed.
    let making = node.clone();
    let made = tokio::spawn(async move { token_change::make(&making, wanted).await }).await;
    made.unwrap_or_else(|_| Err(quorate_storage::Error::Closed.into()))?;
    let mut told = node.auth.find(id).map_or(json!({}), |made| shown(&made, node.now()));
    if let Value::Object(fields) = &mut told {
        fields.insert("token".to_owned(), json!(secret.token(id)));
    }
    let mut response = represent::json(&told);
    *response.status_mut() = StatusCode::CREATED;
    let place = HeaderValue::try_from(format!("/auth/tokens/{id}"));
    response.headers_mut().insert(LOCATION, place.unwrap_or(HeaderValue::from_static("")));
    Ok(private(response))
}

/// `GET /auth/tokens`: the tokens that were not revoked, without what would make one.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let now = gate.node.now();
    let tokens: Vec<Value> = gate.node.auth.all().iter().map(|token| shown(token, now)).collect();
    Ok(private(represent::json(&json!({"tokens": tokens}))))
}

/// `DELETE /auth/tokens/{id}`: 204 once a majority of the nodes knows of it, durably.
pub(super) async fn revoke(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    conditions::refuse_all(request.headers())?;
    let unknown = || Problem::from(TokensError::Unknown);
    let id = TokenId::parse(gate.rest(request.uri())).ok_or_else(unknown)?;
    let node: Arc<Node> = gate.node;
    let revoked = tokio::spawn(async move { token_change::revoke(&node, id).await }).await;
    match revoked.unwrap_or_else(|_| Err(quorate_storage::Error::Closed.into())) {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(TokensError::NoQuorum { acks, needed }) => {
            let detail = format!(
                "the token is revoked on {acks} nodes, which go on telling the others; {needed} are \
                 needed to be sure of it. A node that cannot be reached accepts the token for auth.stale_ms \
                 at the most. Repeat the request"
            );
            let problem = Problem::new(Kind::NoTokenQuorum, detail);
            Err(problem.fact("acks", acks).fact("required", needed).fact("outcome", "partial"))
        }
        Err(error) => Err(error.into()),
    }
}

/// `GET /auth/whoami`: what the token of the request is, and what it allows.
pub(super) async fn whoami(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let now = gate.node.now();
    let mut told = match &gate.who {
        Who::Token(found) => shown(found, now),
        Who::Subject(subject) => json!({
            "id": subject.id.as_str(),
            "name": subject.name,
            "scopes": subject.scopes,
            "expires_ms": subject.expires.0,
        }),
        Who::Operator => json!({"scopes": [Scope::everything()]}),
        Who::Anyone | Who::Anonymous(_) => json!({}),
    };
    if let Value::Object(fields) = &mut told {
        fields.insert("who".to_owned(), json!(gate.who.name()));
        fields.insert("auth".to_owned(), json!(if gate.checks_tokens { "on" } else { "off" }));
    }
    Ok(private(represent::json(&told)))
}

/// What may be told of a token.
fn shown(found: &InUse, now: WallTime) -> Value {
    let token = &found.token;
    json!({
        "id": found.id.as_str(),
        "name": token.name,
        "scopes": token.scopes,
        "created_ms": token.created.stamp.wall_time().0,
        "created_on": token.created.node,
        "created_by": token.by.map_or("operator".to_owned(), |by| by.to_string()),
        "expires_ms": token.expires.map(|at| at.0),
        "is_expired": token.is_expired(now),
        "rate_per_s": token.rate_per_s,
    })
}

/// Nothing on the way keeps it.
fn private(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl From<TokensError> for Problem {
    fn from(error: TokensError) -> Self {
        let detail = error.to_string();
        match error {
            TokensError::Wanted(_) => Self::new(Kind::BadBody, detail),
            TokensError::Unknown => {
                let detail = "no such token; one that was revoked is forgotten after a while";
                Self::new(Kind::NoSuchToken, detail)
            }
            TokensError::Full | TokensError::Dead => Self::new(Kind::TokensFull, detail),
            TokensError::Stale => Self::new(Kind::AuthStale, detail),
            TokensError::NoQuorum { acks, needed } => {
                let detail = format!("{detail}; the token was not made");
                let problem = Self::new(Kind::NoTokenQuorum, detail).fact("outcome", "not_applied");
                problem.fact("acks", acks).fact("required", needed)
            }
            TokensError::Store(quorate_storage::Error::DiskLow { .. }) => {
                Self::new(Kind::DiskFull, detail)
            }
            TokensError::Store(_) => Self::new(Kind::Failed, detail),
        }
    }
}
