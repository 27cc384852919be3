//! Listing the entries of a secondary index ([`crate::ops::listing`]).

use quorate_protocol::index::{Hit, IndexPage, IndexRequest};
use quorate_protocol::message::{Message, Query, QueryReply, Reply};
use quorate_protocol::object::{Sibling, Version};
use quorate_storage::{Error, Store};

use crate::ops::listing::Listed;

impl Listed for IndexRequest {
    fn message(&self) -> Message {
        let Self { bucket, range, after, limit } = self.clone();
        Message::Query(Query::Index { bucket, range, after, limit })
    }

    fn page_of(reply: Reply) -> Option<IndexPage> {
        let Reply::Query(QueryReply::Index(page)) = reply else { return None };
        Some(page)
    }

    fn reply(page: IndexPage) -> Reply {
        Reply::Query(QueryReply::Index(page))
    }

    fn is_sound(&self) -> bool {
        self.range.is_sound()
    }

    fn is_whole(&self, store: &Store) -> bool {
        store.has_whole_index()
    }

    fn look(&self, store: &Store) -> Result<Vec<(Hit, Version, bool)>, Error> {
        let limit = usize::from(self.limit);
        store.indexed(self.bucket.as_str(), &self.range, self.after.as_ref(), limit)
    }

    fn is_shown(&self, hit: &Hit, values: &[&Sibling]) -> bool {
        let mut entries = values.iter().flat_map(|value| value.metadata.index_entries());
        entries.any(|(index, value)| index == self.range.index && value == hit.value)
    }
}
