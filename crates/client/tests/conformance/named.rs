//! What earlier steps have given, by the names that they have for it.

use quorate_client::{Context, Error, FeedChange, KeyState, Read, Sibling, Value, Written};
use serde_json::Value as Json;

use crate::arguments::lifetime;
use crate::cases::bytes;
use crate::indexes;
use crate::run::{Done, Run, Step, joined};

impl Run {
    /// `PAGE.KEY`: a change on a page of changes.
    fn change(&self, name: &str) -> Option<&FeedChange> {
        let (page, key) = name.split_once('.')?;
        let Some(Done::Feed(page)) = self.named.get(page) else { return None };
        page.changes.iter().find(|change| change.key == key)
    }

    /// A read, or a change that is as one.
    fn read(&self, name: &str) -> Option<&Read> {
        if let Some(Done::Read(read)) = self.named.get(name) {
            return Some(read);
        }
        match &self.change(name)?.state {
            KeyState::Read(read) => Some(read),
            KeyState::Typed(_) | KeyState::LeftOut(_) => None,
        }
    }

    pub(crate) async fn resolve(&self, step: &Step) -> Result<Result<Written, Error>, String> {
        let name = step.get("siblings").and_then(Json::as_str).unwrap_or_default();
        let Some(Read::Siblings(siblings)) = self.read(name) else {
            return Err(format!("siblings: {name} names no conflict"));
        };
        if let Some(with) = step.get("join").and_then(Json::as_str) {
            let entries = indexes::entries(step)?;
            let put = siblings.resolve(|all| {
                let value = Value::new(joined(all, with));
                entries.into_iter().fold(value, |value, (index, entry)| value.index(index, entry))
            });
            return Ok(match lifetime(step) {
                Some(lifetime) => put.lifetime(lifetime).await,
                None => put.await,
            });
        }
        if step.contains_key("index") {
            return Err("index: a sibling that is kept has its own".to_owned());
        }
        let kept = bytes(&step["keep"])?;
        let has = |it: &&Sibling| it.value.as_ref().is_some_and(|value| value.bytes == kept);
        let dot = &siblings.siblings().iter().find(has).ok_or("keep: no such sibling")?.dot;
        let keep = siblings.keep(dot);
        Ok(match lifetime(step) {
            Some(lifetime) => keep.lifetime(lifetime).await,
            None => keep.await,
        })
    }

    pub(crate) fn context(&self, step: &Step) -> Result<Result<Option<Context>, Error>, String> {
        if let Some(text) = step.get("context_text").and_then(Json::as_str) {
            return Ok(Context::parse(text).map(Some));
        }
        let Some(name) = step.get("context").and_then(Json::as_str) else { return Ok(Ok(None)) };
        if let Some(Read::Absent(absent)) = self.read(name) {
            return Ok(Ok(absent.context().cloned())); // nothing to have seen
        }
        let change = self.change(name).and_then(FeedChange::context);
        let context = match self.named.get(name) {
            Some(Done::Read(read)) => read.context().cloned(),
            Some(Done::Written(written)) => written.context.clone(),
            Some(Done::Typed(shown) | Done::Applied(_, Some(shown))) => Some(shown.context.clone()),
            _ => change.cloned(),
        };
        context.map(|context| Ok(Some(context))).ok_or(format!("context: {name} has none"))
    }

    pub(crate) fn etag(&self, name: &str) -> Result<String, String> {
        let etag = match (self.read(name), self.named.get(name)) {
            (Some(Read::Value(value)), _) => value.etag().map(str::to_owned),
            (Some(Read::Siblings(siblings)), _) => siblings.etag().map(str::to_owned),
            (_, Some(Done::Written(written))) => written.etag.clone(),
            _ => None,
        };
        etag.ok_or(format!("if: {name} has no entity tag"))
    }
}
