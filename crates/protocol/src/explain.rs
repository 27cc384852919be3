//! What an explained request went through: events at one node, as that node keeps them and as a
//! coordinator sends them to the entry node.
//!
//! An event is a few numbers; it becomes text only when a client asks for it. The number of events is
//! bounded where they are recorded and again where they are decoded.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Dot;
use crate::get::{ReadKind, RowKind};
use crate::message::Refusal;
use crate::name::NodeId;
use crate::object::Version;

/// The most events of one operation at one node. What comes after them is dropped, but for the quorum and
/// the end.
pub const EVENTS_MAX: usize = 128;
/// Room for the events that are never dropped.
const MILESTONES_MAX: usize = 4;

/// What happened. The names are part of the HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A node was chosen as the write's coordinator.
    Routed,
    /// The write was sent to the chosen coordinator.
    Forwarded,
    /// The chosen coordinator took the write over.
    Accepted,
    /// A node refused, and certainly did nothing.
    Refused,
    /// A node is no longer waited for; it may still do what it was asked.
    Silent,
    /// The message was certainly not sent.
    NotSent,
    /// A node was passed over because it is down, suspected or slow.
    Avoided,
    /// The coordinator gave the write its dot.
    Minted,
    /// The coordinator's own row has the write.
    Stored,
    /// The coordinator's own copy is durable as configured: its acknowledgement.
    Synced,
    /// A home replica was asked to store the object, or for what it holds.
    Asked,
    /// A replica told what it holds.
    Replied,
    /// A replica holds the object, durably as configured.
    Acked,
    /// One more home replica was asked because another is slow.
    Hedged,
    /// A fallback was asked in the place of a home replica.
    Fallback,
    /// A node that was no longer waited for answered after all.
    Late,
    /// W acknowledgements or R answers are there.
    Quorum,
    /// The client was answered.
    Answered,
    /// A stale home replica was sent the merged object.
    Repaired,
    /// A fallback keeps the object as a hint.
    Hinted,
    /// Nothing more will happen.
    Done,
}

impl Kind {
    /// Every kind, in the order of their numbers on the wire.
    pub const ALL: [Self; 21] = [
        Self::Routed,
        Self::Forwarded,
        Self::Accepted,
        Self::Refused,
        Self::Silent,
        Self::NotSent,
        Self::Avoided,
        Self::Minted,
        Self::Stored,
        Self::Synced,
        Self::Asked,
        Self::Replied,
        Self::Acked,
        Self::Hedged,
        Self::Fallback,
        Self::Late,
        Self::Quorum,
        Self::Answered,
        Self::Repaired,
        Self::Hinted,
        Self::Done,
    ];

    /// Its name in a trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Forwarded => "forwarded",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NotSent => "not_sent",
            Self::Avoided => "avoided",
            Self::Minted => "minted",
            Self::Stored => "stored",
            Self::Synced => "synced",
            Self::Asked => "asked",
            Self::Replied => "replied",
            Self::Acked => "acked",
            Self::Hedged => "hedged",
            Self::Fallback => "fallback",
            Self::Late => "late",
            Self::Quorum => "quorum",
            Self::Answered => "answered",
            Self::Repaired => "repaired",
            Self::Hinted => "hinted",
            Self::Done => "done",
        }
    }

    /// Whether it is recorded even if there are [`EVENTS_MAX`] events already: it happens once.
    fn is_milestone(self) -> bool {
        matches!(self, Self::Quorum | Self::Done)
    }
}

/// Why a node was chosen as coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// The entry node is a home replica.
    HomeReplica,
    /// The entry node is not; this is the first home replica that seems healthy.
    FirstHealthy,
    /// The write is conditional or idempotent, and such writes meet at the first healthy home replica.
    Meeting,
    /// The entry node's own store is slow.
    SlowStore,
    /// The home replica tried before did not take the write or did not answer.
    NextHome,
    /// No home replica could be reached: the entry node keeps the write as a hint.
    AsFallback,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HomeReplica => "home replica",
            Self::FirstHealthy => "first healthy home replica",
            Self::Meeting => {
                "first healthy home replica, where conditional and idempotent writes meet"
            }
            Self::SlowStore => "first healthy home replica, as the store of the entry node is slow",
            Self::NextHome => "next home replica, as the one before it did not answer or refused",
            Self::AsFallback => "fallback, as no home replica could be reached",
        })
    }
}

/// What more there is to say about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// The version that the node holds, [`Version::ABSENT`] if it holds nothing.
    Version(Version),
    /// The dot that the write got.
    Dot(Dot),
    /// What the node was asked for.
    Ask(ReadKind, RowKind),
    /// For this home replica.
    For(NodeId),
    /// It keeps no hint for the key.
    NoHint,
    /// It has not received the partition yet.
    NotReady,
    /// It holds an object of so many bytes, and memory is reserved before it is asked again.
    Large(u32),
    /// Why it refused.
    Refusal(Refusal),
    /// The reading node has no memory for its object.
    NoRoom,
    /// Why it was chosen.
    Why(Why),
    /// It is down.
    Down,
    /// It is down or suspected.
    DownOrSuspected,
    /// For the read that a conditional write or a delete without a context needs first.
    ReadFirst,
}

impl Note {
    /// The note as text; `None` if there is nothing to say.
    pub fn text(&self) -> Option<String> {
        Some(match self {
            Self::Nothing => return None,
            Self::Version(version) if *version == Version::ABSENT => "holds nothing".to_owned(),
            Self::Version(version) => format!("version {}", version.to_hex()),
            Self::Dot(dot) => format!("dot {dot}"),
            Self::Ask(ReadKind::Object, RowKind::Home) => "for the object".to_owned(),
            Self::Ask(ReadKind::Digest, RowKind::Home) => "for the version".to_owned(),
            Self::Ask(ReadKind::Object, RowKind::Hints) => "for the object in its hints".to_owned(),
            Self::Ask(ReadKind::Digest, RowKind::Hints) => {
                "for the version in its hints".to_owned()
            }
            Self::For(node) => format!("for {node}"),
            Self::NoHint => "keeps no hint for the key".to_owned(),
            Self::NotReady => "has not received the partition yet".to_owned(),
            Self::Large(bytes) => format!("holds {bytes} bytes, which need room first"),
            Self::Refusal(refusal) => refusal.to_string(),
            Self::NoRoom => "the reading node has no memory for it".to_owned(),
            Self::Why(why) => why.to_string(),
            Self::Down => "down".to_owned(),
            Self::DownOrSuspected => "down or suspected".to_owned(),
            Self::ReadFirst => "reads before it writes".to_owned(),
        })
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since the operation arrived at the node that records it.
    pub us: u32,
    /// What happened.
    pub kind: Kind,
    /// The node it is about.
    pub node: NodeId,
    /// What more there is to say.
    pub note: Note,
}

/// The events of one operation at one node, at most [`EVENTS_MAX`] and a few, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    #[serde(deserialize_with = "not_too_many")]
    list: Vec<Event>,
    truncated: bool,
}

impl Events {
    /// None yet, with room for the usual number.
    pub fn with_room() -> Self {
        Self { list: Vec::with_capacity(12), truncated: false }
    }

    /// Adds an event, or notes that it was dropped.
    pub fn push(&mut self, event: Event) {
        let max = if event.kind.is_milestone() { EVENTS_MAX + MILESTONES_MAX } else { EVENTS_MAX };
        if self.list.len() < max {
            self.list.push(event);
        } else {
            self.truncated = true;
        }
    }

    /// All of them.
    pub fn list(&self) -> &[Event] {
        &self.list
    }

    /// The first of a kind about a node.
    pub fn first(&self, kind: Kind, node: NodeId) -> Option<&Event> {
        self.list.iter().find(|event| event.kind == kind && event.node == node)
    }

    /// Whether the operation is over.
    pub fn are_complete(&self) -> bool {
        self.list.iter().any(|event| event.kind == Kind::Done)
    }

    /// Whether some were dropped.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

/// Decodes a list no longer than one that could have been recorded: a peer must not make this node
/// hold more.
fn not_too_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Event>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<Event>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {} events", EVENTS_MAX + MILESTONES_MAX)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Event>, A::Error> {
            let mut list = Vec::new();
            while let Some(event) = seq.next_element()? {
                if list.len() == EVENTS_MAX + MILESTONES_MAX {
                    return Err(A::Error::custom("too many events"));
                }
                list.push(event);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(kind: Kind) -> Event {
        Event { us: 7, kind, node: NodeId::parse("n1").unwrap(), note: Note::Nothing }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_said_so_but_never_the_end() {
        let mut events = Events::default();
        for _ in 0..EVENTS_MAX {
            events.push(event(Kind::Asked));
        }
        assert!(!events.is_truncated() && !events.are_complete());
        events.push(event(Kind::Acked));
        events.push(event(Kind::Quorum));
        events.push(event(Kind::Done));
        assert_eq!(events.list().len(), EVENTS_MAX + 2);
        assert!(events.is_truncated() && events.are_complete());
        assert_eq!(events.first(Kind::Acked, event(Kind::Acked).node), None);
        for _ in 0..1000 {
            events.push(event(Kind::Done));
        }
        assert_eq!(events.list().len(), EVENTS_MAX + MILESTONES_MAX);
        let bytes = postcard::to_stdvec(&events).unwrap();
        assert_eq!(postcard::from_bytes::<Events>(&bytes).unwrap(), events);
    }

    #[test]
    fn a_longer_list_than_can_be_recorded_is_not_decoded() {
        let list = vec![event(Kind::Asked); EVENTS_MAX + MILESTONES_MAX + 1];
        let events = Events { list, truncated: false };
        let bytes = postcard::to_stdvec(&events).unwrap();
        assert!(postcard::from_bytes::<Events>(&bytes).is_err());
    }

    #[test]
    fn kinds_have_names_of_their_own_in_the_order_of_their_numbers() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(postcard::to_stdvec(&kind).unwrap(), [number as u8]);
            assert_eq!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
        }
    }
}
