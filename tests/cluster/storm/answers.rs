//! What the answers to a storm's requests say.

use quorate_oracle::types::Fate;
use quorate_protocol::clock::Clock;
use quorate_protocol::context::ContextKeys;
use quorate_protocol::name::Key;

use crate::http::Answer;

/// What became of a change.
///
/// # Panics
/// If it was refused as a bad one.
pub(crate) fn fate_of(answer: &reqwest::Result<Answer>) -> Fate {
    match answer {
        Ok(answer) if [200, 204, 300].contains(&answer.status) => Fate::Acked,
        Ok(answer) if answer.status >= 500 && answer.outcome() != "not_applied" => Fate::Unknown,
        Ok(answer) if answer.status >= 500 => Fate::NotApplied,
        Ok(answer) => panic!("a good write was refused: {} {}", answer.status, answer.text()),
        Err(error) if error.is_connect() => Fate::NotApplied,
        Err(_) => Fate::Unknown,
    }
}

/// What a context of a key (`bucket/key`) covers; without one nothing.
pub(crate) fn clock_of(contexts: &ContextKeys, key: &str, context: Option<&str>) -> Clock {
    let Some(context) = context else { return Clock::default() };
    let (bucket, key) = key.split_once('/').unwrap();
    contexts.verify(&Key::new(bucket, key.as_bytes()).unwrap(), context).unwrap().clock
}
