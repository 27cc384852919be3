//! Writes: sent, and their answers told to people and programs.

use std::future::Future;

use quorate_client::{Error, Written};
use serde_json::json;

use crate::app::{App, From, Seen};
use crate::args::Name;
use crate::exit::{Done, Exit, Failure};
use crate::explain;
use crate::out::{count, millis};

/// A write, as far as its outcome is told.
pub(crate) struct Writing<'a> {
    pub(crate) name: &'a Name,
    pub(crate) seen: Seen,
    /// The key under which it can be repeated.
    pub(crate) idempotency_key: String,
    /// What was done, such as `stored 8 B in`.
    pub(crate) done: String,
    /// Whether to print the trace.
    pub(crate) explain: bool,
}

/// A random `Idempotency-Key`, unless one was given.
pub(crate) fn idempotency_key(given: Option<&String>) -> String {
    given.cloned().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()))
}

/// Waits for a write and tells its outcome.
pub(crate) async fn write(
    app: &App,
    writing: Writing<'_>,
    sent: impl Future<Output = Result<Written, Error>>,
) -> Done<Exit> {
    let written = match crate::app::patiently("waiting until it is stored", sent).await {
        Ok(written) => written,
        Err(error) => {
            if writing.explain {
                explain::of_error(app, &error).await;
            }
            return Err(refused(app, &writing, &error).await.into());
        }
    };
    // Without a context in the answer there are siblings that this writer has not seen. What it had
    // seen is superseded: to go on it must read.
    app.remember(writing.name, written.context.as_ref().map(|context| context.as_str())).await;
    if writing.explain {
        explain::of_answer(app, &written.answered).await?;
    } else {
        tell(app, &writing, &written)?;
    }
    Ok(Exit::Ok)
}

fn tell(app: &App, writing: &Writing<'_>, written: &Written) -> Done {
    let (name, from) = (writing.name, writing.seen.from);
    if app.out.json {
        let age = match from {
            From::Remembered { ago_ms } => Some(ago_ms),
            From::Given | From::Blind | From::Nothing => None,
        };
        return app.out.json(&json!({
            "bucket": name.bucket,
            "key": name.key,
            "acks": written.acks,
            "hints": written.hints,
            "siblings": written.siblings,
            "context": written.context.as_ref().map(|context| context.as_str()),
            "context_used": from.name(),
            "context_age_ms": age,
        }));
    }
    let held = count(written.acks.into(), "node");
    let hinted = match written.hints {
        0 => String::new(),
        hints => format!(", {hints} of them as a hint for a node that is down"),
    };
    let seen = match from {
        From::Given => ", replacing what --context covers".to_owned(),
        From::Remembered { ago_ms } => format!(", replacing what you saw {} ago", millis(ago_ms)),
        From::Blind | From::Nothing => String::new(),
    };
    app.out.line(&format!("{} {name} on {held}{hinted}{seen}", writing.done))?;
    if written.siblings > 1 {
        let why = match from {
            From::Given | From::Remembered { .. } => "another write came in between",
            From::Blind => "nothing was replaced",
            From::Nothing => "you had not read the key, so nothing was replaced",
        };
        app.out.note(&format!(
            "note: the key has {} siblings now: {why}. See them: quorate get {name}",
            written.siblings
        ));
    }
    Ok(())
}

async fn refused(app: &App, writing: &Writing<'_>, error: &Error) -> Failure {
    let mut failure = app.failure(error);
    let name = error.problem().map(|problem| problem.name());
    let remembered = matches!(writing.seen.from, From::Remembered { .. });
    if remembered && name == Some("bad_context") {
        app.remember(writing.name, None).await;
        failure.message += " (it was remembered from an earlier command, and is forgotten now)";
        failure.advice = Some(format!(
            "read the key again: quorate get {}; or write with --blind",
            writing.name
        ));
    }
    if failure.exit == Exit::Unknown {
        // Whatever it left behind, a repetition under its key is no second write.
        failure.advice = Some(format!(
            "repeat the same command with --idempotency-key {}: it is stored once at most; or read the key",
            writing.idempotency_key
        ));
    }
    failure
}
