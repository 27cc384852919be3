//! Listing the live keys of a bucket ([`crate::ops::listing`]).

use quorate_protocol::listing::{KeyPage, ListRequest};
use quorate_protocol::message::{Message, Query, QueryReply, Reply};
use quorate_protocol::name::{KEY_BYTES_MAX, Key};
use quorate_protocol::object::{Sibling, Version};
use quorate_storage::{Error, Store};

use crate::ops::listing::Listed;

impl Listed for ListRequest {
    fn message(&self) -> Message {
        let Self { bucket, prefix, after, limit } = self.clone();
        Message::Query(Query::Keys { bucket, prefix, after, limit })
    }

    fn page_of(reply: Reply) -> Option<KeyPage> {
        let Reply::Query(QueryReply::Keys(page)) = reply else { return None };
        Some(page)
    }

    fn reply(page: KeyPage) -> Reply {
        Reply::Query(QueryReply::Keys(page))
    }

    fn is_sound(&self) -> bool {
        self.prefix.len() <= KEY_BYTES_MAX
    }

    fn look(&self, store: &Store) -> Result<Vec<(Key, Version, bool)>, Error> {
        let limit = usize::from(self.limit);
        store.keys(self.bucket.as_str(), &self.prefix, self.after.as_ref(), limit)
    }

    /// A key is listed as long as it has any value, of whatever type.
    fn is_shown(&self, _: &Key, _: &[&Sibling]) -> bool {
        true
    }
}
