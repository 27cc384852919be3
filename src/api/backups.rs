//! `/backups`: backups of this node, made, fetched file by file, and deleted. `quorate backup` does that on
//! every node of a cluster.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use quorate_engine::background::work;
use quorate_engine::backup::hold::HOLD_MAX;
use quorate_engine::backup::make;
use quorate_engine::backup::manifest::{FileOf, Manifest, check_name};
use quorate_engine::backup::state::{Making, NotBegun, Stage};
use quorate_engine::node::Node;
use quorate_storage::Error;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;

use super::gate::Gate;
use super::problem::{Kind, Problem, echo};
use super::route::Answer;
use super::{body, conditions, headers, refusal, represent, write};

/// The longest body, in bytes of JSON.
const JSON_BYTES_MAX: usize = 4 << 10;
/// How much of a file is read at a time.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MakeBody {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HoldBody {
    ms: u64,
}

/// `GET /backups`: those that are kept, and the one that is being made.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let _pass = gate.enter(&params)?;
    let look = |node: &Node| {
        let names = node.host.dir.backups().map_err(in_words)?;
        let bytes = |name: &String| {
            let manifest = node.host.dir.backup_manifest(name).map_err(in_words)?;
            let manifest = Manifest::parse(&manifest);
            Ok(manifest.map(|it| it.files.iter().map(|file| file.bytes).sum::<u64>()).ok())
        };
        let sizes = names.iter().map(bytes).collect::<Result<Vec<_>, Error>>()?;
        Ok((names.into_iter().zip(sizes).collect::<Vec<_>>(), make::kept(node)?.1))
    };
    let (kept, held) =
        work::run(&gate.node, look).await.map_err(|error| refusal::of_store(&error))?;
    let backups: Vec<Value> =
        kept.into_iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
    let making = gate.node.backups.last().map(|making| shown(&making));
    Ok(represent::json(&json!({
        "node": gate.node.me,
        "backups": backups,
        "held_bytes": held,
        "last": making,
    })))
}

fn shown(making: &Making) -> Value {
    let (state, done, of, reason) = match &making.stage {
        Stage::Copying => ("copying", None, None, None),
        Stage::Hashing { done, of } => ("hashing", Some(*done), Some(*of), None),
        Stage::Whole => ("whole", None, None, None),
        Stage::Failed(why) => ("failed", None, None, Some(why)),
    };
    json!({"name": making.name, "state": state, "done": done, "of": of, "reason": reason})
}

/// `POST /backups`: makes one. Answers once the copy is made; its files are hashed from then on.
pub(super) async fn make(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = made(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn made(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, mut pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let MakeBody { name } = body::parse_json(&text)?;
    let begun = work::run(&gate.node, move |node| make::begin(node, &name)).await;
    begun.map_err(|error| refusal::of_store(&error))??;
    pass.begin();
    // Past the time it goes on all the same, and `GET /backups` says how far it is.
    let made = timeout_at(pass.deadline(), gate.node.backups.copied()).await;
    pass.end();
    let last = made.ok().flatten().or_else(|| gate.node.backups.last());
    if let Some(Making { stage: Stage::Failed(why), .. }) = &last {
        return Err(Problem::new(Kind::Failed, why.as_str()));
    }
    let mut response = represent::json(&last.map_or(Value::Null, |making| shown(&making)));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

impl From<NotBegun> for Problem {
    fn from(why: NotBegun) -> Self {
        let detail = why.to_string();
        match why {
            NotBegun::Name(_) => Self::new(Kind::BadBody, detail),
            NotBegun::Exists | NotBegun::Busy(_) | NotBegun::TooMany(_) | NotBegun::SetAside => {
                Self::new(Kind::BackupRefused, detail)
            }
        }
    }
}

/// `POST /backups/hold`: keeps hints and unowned rows from leaving this node while nodes are copied.
pub(super) async fn hold(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = held(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn held(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let (text, _pass) = gate.document(parts, body, JSON_BYTES_MAX).await?;
    let HoldBody { ms } = body::parse_json(&text)?;
    let max = HOLD_MAX.as_millis() as u64;
    if ms > max {
        return Err(Problem::new(Kind::BadBody, format!("ms: must be from 0 to {max}")));
    }
    let hold = move |node: &Node| {
        node.backups.hold.hold(Duration::from_millis(ms));
        Ok(())
    };
    work::run(&gate.node, hold).await.map_err(|error| refusal::of_store(&error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /backups/{name}`: its manifest.
pub(super) async fn show(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let name = name(gate.rest(request.uri()))?.to_owned();
    let _pass = gate.enter(&params)?;
    let manifest = manifest(&gate.node, name).await?;
    Ok(represent::json(&json!(manifest)))
}

/// `DELETE /backups/{name}`.
pub(super) async fn delete(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let name = name(gate.rest(request.uri()))?.to_owned();
    conditions::refuse_all(request.headers())?;
    let _pass = gate.enter(&params)?;
    let gone = name.clone();
    let remove = move |node: &Node| match node.host.dir.remove_backup(&gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(in_words),
    };
    match work::run(&gate.node, remove).await.map_err(|error| refusal::of_store(&error))? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(no_such(&name)),
    }
}

/// `GET /backups/{name}/files/{file}`: a file of it, or a part of the file.
pub(super) async fn file(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let (name, file) = place(&gate, request.uri())?;
    let _pass = gate.enter(&params)?;
    let known = manifest(&gate.node, name.clone()).await?;
    let Some(FileOf { bytes, .. }) = known.file(&file) else {
        let detail = format!("the backup {name:?} has no file {:?}", echo(&file));
        return Err(Problem::new(Kind::NoSuchBackup, detail));
    };
    let (from, end, is_part) = part(request.headers(), *bytes)?;
    let turn = gate.node.backups.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Kind::Overloaded, "as many files of backups are being sent as may be")
    })?;
    let sending = Sending { node: gate.node, name, file, from, end, _turn: turn };
    let mut response = Response::new(Body::from_stream(unfold(sending, Sending::next)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - from));
    if is_part {
        let range = format!("bytes {from}-{}/{bytes}", end.saturating_sub(1));
        if let Ok(range) = HeaderValue::try_from(range) {
            headers.insert(CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Name and file in a path.
fn place(gate: &Gate, uri: &Uri) -> Result<(String, String), Problem> {
    let rest = gate.rest(uri);
    let (of, file) = rest.split_once("/files/").unwrap_or((rest, ""));
    Ok((name(of)?.to_owned(), file.to_owned()))
}

/// The name in a path: nothing in it is escaped.
fn name(text: &str) -> Result<&str, Problem> {
    check_name(text).map(|()| text).map_err(Problem::bad_path)
}

fn no_such(name: &str) -> Problem {
    Problem::new(Kind::NoSuchBackup, format!("this node keeps no backup {name:?}"))
}

async fn manifest(node: &Arc<Node>, name: String) -> Result<Manifest, Problem> {
    let named = name.clone();
    let read = move |node: &Node| match node.host.dir.backup_manifest(&named) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(in_words),
    };
    let text = work::run(node, read).await.map_err(|error| refusal::of_store(&error))?;
    let text = text.ok_or_else(|| no_such(&name))?;
    Manifest::parse(&text).map_err(|error| Problem::new(Kind::Failed, error.to_string()))
}

/// The part of a file of so many bytes that is asked for: from where, up to where, and whether it is a part.
fn part(headers: &HeaderMap, bytes: u64) -> Result<(u64, u64, bool), Problem> {
    let Some(value) = headers::single(headers, &RANGE)? else { return Ok((0, bytes, false)) };
    let range = value.to_str().ok().and_then(|text| text.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let parsed = range.and_then(|(from, to)| {
        let from: u64 = from.parse().ok()?;
        let end = match to {
            "" => bytes,
            to => to.parse::<u64>().ok()?.saturating_add(1).min(bytes),
        };
        (from < end).then_some((from, end, true))
    });
    let expected = format!("expected bytes=FROM- or bytes=FROM-TO below {bytes}");
    parsed.ok_or_else(|| Problem::bad_header("Range", expected))
}

/// A file on its way.
struct Sending {
    node: Arc<Node>,
    name: String,
    file: String,
    from: u64,
    end: u64,
    _turn: OwnedSemaphorePermit,
}

impl Sending {
    /// The next piece, when it is its turn among all that reads backups on this node.
    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        let left = usize::try_from(self.end - self.from).unwrap_or(usize::MAX);
        if left == 0 {
            return None;
        }
        let (name, file, at) = (self.name.clone(), self.file.clone(), self.from);
        let read = move |node: &Node| {
            let read = node.host.dir.read_backup((&name, true), &file, (at, left.min(PIECE_BYTES)));
            read.map_err(in_words)
        };
        let read = work::run_throttled(&self.node, &self.node.backups.throttle, read).await;
        let piece = match read {
            Ok(piece) if !piece.is_empty() => Ok(Bytes::from(piece)),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // After an error the connection is cut: the length that was promised is not reached.
        self.from = piece.as_ref().map_or(self.end, |piece| self.from + piece.len() as u64);
        Some((piece, self))
    }
}

fn in_words(error: io::Error) -> Error {
    Error::Io(format!("backups: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_the_file() {
        let part = |range: &'static str, bytes| {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
            part(&headers, bytes).map_err(|problem| problem.kind())
        };
        assert_eq!(super::part(&HeaderMap::new(), 7).unwrap(), (0, 7, false));
        assert_eq!(part("bytes=0-", 7), Ok((0, 7, true)));
        assert_eq!(part("bytes=3-4", 7), Ok((3, 5, true)));
        assert_eq!(part("bytes=6-18446744073709551615", 7), Ok((6, 7, true)));
        for bad in ["bytes=7-", "bytes=-3", "bytes=4-3", "bytes=0-1,3-4", "lines=0-1", "bytes=x-"] {
            assert_eq!(part(bad, 7), Err(Kind::BadHeader), "{bad}");
        }
        assert_eq!(part("bytes=0-", 0), Err(Kind::BadHeader), "there is nothing");
    }
}
