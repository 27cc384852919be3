//! Who may do what: actions, and the scopes that allow them.
//!
//! A [`Scope`] allows some actions in some buckets, or on the keys of them that begin with a prefix. What a
//! request does is an [`Action`] and a [`Target`]; it is allowed if one scope allows it. Buckets that begin
//! with `_` are the store's own: only [`Action::Admin`] reaches them.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{BUCKET_BYTES_MAX, KEY_BYTES_MAX};

/// The most scopes of one token.
pub const SCOPES_MAX: usize = 8;
/// The most bucket patterns of one scope.
pub const PATTERNS_MAX: usize = 16;
/// What the buckets begin with that are the store's own.
pub const OWN_BUCKETS: &str = "_";

macro_rules! actions {
    ($($bit:literal $variant:ident $name:literal $what:literal,)*) => {
        /// What a request does: what somebody has to be allowed for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action {
            $(#[doc = $what] $variant,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in scopes and problems.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its bit in a stored set; never given to another action.
            fn bit(self) -> u32 {
                match self { $(Self::$variant => 1 << $bit,)* }
            }
        }
    };
}

actions! {
    0 Read "read" "Reading values, and what replicas hold of a key.",
    1 Write "write" "Writing values.",
    2 Delete "delete" "Deleting keys.",
    3 List "list" "Listing keys.",
    4 Watch "watch" "Following changes of keys.",
    5 Look "look" "Looking at the state of the cluster.",
    6 Metrics "metrics" "Reading metrics.",
    7 AdminBuckets "admin:buckets" "Changing the properties of buckets.",
    8 AdminLayout "admin:layout" "Changing the members of the cluster.",
    9 AdminAuth "admin:auth" "Making, listing and revoking tokens.",
    10 AdminBackup "admin:backup" "Backing up.",
    11 AdminRepair "admin:repair" "Repairing, and deciding on data that is not trusted.",
    12 Admin "admin" "All of it, in all buckets.",
}

impl Action {
    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.name() == name)
    }

    /// Whether it is done to a bucket, so that a scope has to name buckets for it.
    fn is_in_buckets(self) -> bool {
        match self {
            Self::Read | Self::Write | Self::Delete | Self::List | Self::Watch => true,
            Self::AdminBuckets => true,
            Self::Look | Self::Metrics | Self::AdminLayout | Self::AdminAuth => false,
            Self::AdminBackup | Self::AdminRepair | Self::Admin => false,
        }
    }
}

/// A set of actions. One that this release does not know is kept, and allows nothing here.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Actions(u32);

impl Actions {
    /// A set of these.
    pub fn of(actions: &[Action]) -> Self {
        Self(actions.iter().fold(0, |set, action| set | action.bit()))
    }

    /// Whether an action is one of these.
    pub fn has(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// Those that this release knows.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.iter().copied().filter(move |action| self.has(*action))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Action::name)).finish()
    }
}

/// As names in texts, as bits in what is stored and sent.
impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_seq(self.iter().map(Action::name)),
            false => serializer.serialize_u32(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Actions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of actions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Actions, A::Error> {
                let mut set = Actions::default();
                while let Some(name) = names.next_element::<String>()? {
                    let action = Action::parse(&name).ok_or_else(|| A::Error::custom(unknown()))?;
                    set.0 |= action.bit();
                }
                Ok(set)
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_seq(Names),
            false => u32::deserialize(deserializer).map(Self),
        }
    }
}

fn unknown() -> String {
    let names: Vec<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    format!("actions: the actions are {}", names.join(", "))
}

/// Which buckets: one by its name, or all that begin with what stands before a `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pattern(String);

impl Pattern {
    /// Parses a pattern; `None` unless it is the name of a bucket, or the beginning of one (which may be
    /// empty) and a `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let stem = text.strip_suffix('*');
        let name = stem.unwrap_or(text);
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_long_enough = stem.is_some() || !name.is_empty();
        let is_name = name.len() <= BUCKET_BYTES_MAX && name.bytes().all(fits);
        (is_long_enough && is_name).then(|| Self(text.to_owned()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for a bucket of this name. None stands for the store's own.
    pub fn matches(&self, bucket: &str) -> bool {
        if bucket.starts_with(OWN_BUCKETS) {
            return false;
        }
        match self.0.strip_suffix('*') {
            Some(stem) => bucket.starts_with(stem),
            None => bucket == self.0,
        }
    }

    /// Whether it stands for every bucket that the other stands for.
    fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(stem), Some(others)) => others.starts_with(stem),
            (Some(stem), None) => other.0.starts_with(stem),
            (None, _) => self == other,
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(
                "buckets: each is the name of a bucket, or the beginning of one and a *",
            )
        })
    }
}

/// What a request is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// No bucket.
    Cluster,
    /// The keys of every bucket.
    EveryBucket,
    /// The keys of a bucket that begin so: one key itself; nothing for all of them.
    Keys {
        /// The bucket.
        bucket: &'a str,
        /// How they begin.
        start: &'a [u8],
    },
}

impl<'a> Target<'a> {
    /// A whole bucket.
    pub fn bucket(bucket: &'a str) -> Self {
        Self::Keys { bucket, start: &[] }
    }
}

/// Some actions, and what they may be done to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The actions.
    pub actions: Actions,
    /// The buckets, for the actions that are done to one.
    #[serde(default)]
    pub buckets: Vec<Pattern>,
    /// What the keys must begin with; all keys of these buckets if there is none.
    #[serde(default)]
    pub prefix: Option<String>,
}

/// What is wrong with scopes, in words for whoever wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// There are too many.
    #[error("scopes: at most {SCOPES_MAX} of them")]
    TooMany,
    /// A scope has no action.
    #[error("actions: a scope needs at least one")]
    NoAction,
    /// The action for everything is limited.
    #[error(
        "actions: admin allows everything everywhere; beside it there can be no buckets and no prefix"
    )]
    LimitedAdmin,
    /// It names no bucket for what is done to one.
    #[error(
        "buckets: read, write, delete, list, watch and admin:buckets need buckets, such as \
         [\"carts\"] or [\"*\"]"
    )]
    NoBuckets,
    /// It names too many.
    #[error("buckets: at most {PATTERNS_MAX} in a scope")]
    TooManyBuckets,
    /// It names the store's own.
    #[error("buckets: only admin reaches the buckets that begin with _")]
    OwnBuckets,
    /// The prefix is empty, or longer than a key.
    #[error("prefix: 1 to {KEY_BYTES_MAX} bytes; leave it out for all keys")]
    Prefix,
}

impl Scope {
    /// Everything.
    pub fn everything() -> Self {
        Self { actions: Actions::of(&[Action::Admin]), buckets: Vec::new(), prefix: None }
    }

    /// Whether it can be given to somebody.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn check(&self) -> Result<(), ScopeError> {
        let is_admin = self.actions.has(Action::Admin);
        let fits = |prefix: &String| (1..=KEY_BYTES_MAX).contains(&prefix.len());
        if self.actions.iter().next().is_none() {
            Err(ScopeError::NoAction)
        } else if is_admin && !(self.buckets.is_empty() && self.prefix.is_none()) {
            Err(ScopeError::LimitedAdmin)
        } else if self.buckets.len() > PATTERNS_MAX {
            Err(ScopeError::TooManyBuckets)
        } else if self.buckets.iter().any(|pattern| pattern.0.starts_with(OWN_BUCKETS)) {
            Err(ScopeError::OwnBuckets)
        } else if !is_admin
            && self.buckets.is_empty()
            && self.actions.iter().any(Action::is_in_buckets)
        {
            Err(ScopeError::NoBuckets)
        } else if !self.prefix.iter().all(fits) {
            Err(ScopeError::Prefix)
        } else {
            Ok(())
        }
    }

    /// Whether it allows an action.
    pub fn allows(&self, action: Action, target: Target<'_>) -> bool {
        if self.actions.has(Action::Admin) {
            return true;
        }
        self.actions.has(action)
            && match target {
                Target::Cluster => true,
                Target::EveryBucket => {
                    self.prefix.is_none() && self.buckets.iter().any(|pattern| pattern.0 == "*")
                }
                Target::Keys { bucket, start } => {
                    let prefix = self.prefix.as_deref().unwrap_or_default();
                    start.starts_with(prefix.as_bytes())
                        && self.buckets.iter().any(|pattern| pattern.matches(bucket))
                }
            }
    }

    /// Whether it allows an action at all, to some target.
    pub fn names(&self, action: Action) -> bool {
        self.actions.has(Action::Admin) || self.actions.has(action)
    }

    /// Whether it allows all that the other allows.
    fn covers(&self, other: &Self) -> bool {
        if self.actions.has(Action::Admin) {
            return true;
        }
        let has_actions = other.actions.0 & !self.actions.0 == 0;
        let prefix = |scope: &Self| scope.prefix.clone().unwrap_or_default();
        let has_buckets = other
            .buckets
            .iter()
            .all(|theirs| self.buckets.iter().any(|pattern| pattern.covers(theirs)));
        has_actions && has_buckets && prefix(other).starts_with(&prefix(self))
    }
}

/// Whether scopes can be given to somebody.
///
/// # Errors
/// [`ScopeError`].
pub fn check(scopes: &[Scope]) -> Result<(), ScopeError> {
    if scopes.len() > SCOPES_MAX {
        return Err(ScopeError::TooMany);
    }
    scopes.iter().try_for_each(Scope::check)
}

/// Whether scopes allow an action.
pub fn allow(scopes: &[Scope], action: Action, target: Target<'_>) -> bool {
    scopes.iter().any(|scope| scope.allows(action, target))
}

/// Whether whoever has scopes may give others away: each must lie within one of its own.
pub fn cover(own: &[Scope], given: &[Scope]) -> bool {
    given.iter().all(|scope| own.iter().any(|own| own.covers(scope)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn scope(json: &str) -> Scope {
        serde_json::from_str(json).unwrap()
    }

    fn keys<'a>(bucket: &'a str, start: &'a str) -> Target<'a> {
        Target::Keys { bucket, start: start.as_bytes() }
    }

    #[test]
    fn a_scope_allows_its_actions_in_its_buckets_on_its_keys() {
        let own = scope(
            r#"{"actions": ["read", "list"], "buckets": ["carts", "user-*"], "prefix": "alice/"}"#,
        );
        own.check().unwrap();
        let allows = |action, bucket, start| own.allows(action, keys(bucket, start));
        assert!(
            allows(Action::Read, "carts", "alice/1") && allows(Action::List, "user-7", "alice/")
        );
        assert!(allows(Action::List, "user-", "alice/2/x"));
        for (action, bucket, start) in [
            (Action::Write, "carts", "alice/1"),
            (Action::Delete, "carts", "alice/1"),
            (Action::Read, "carts", "alice"),
            (Action::Read, "carts", "bob/1"),
            (Action::Read, "cart", "alice/1"),
            (Action::Read, "carts2", "alice/1"),
            (Action::Read, "user", "alice/1"),
            (Action::List, "carts", ""),
            (Action::List, "carts", "ali"),
        ] {
            assert!(!allows(action, bucket, start), "{action:?} {bucket} {start}");
        }
        assert!(!own.allows(Action::List, Target::EveryBucket));
        assert!(!own.allows(Action::Look, Target::Cluster));
    }

    #[test]
    fn the_stores_own_buckets_are_for_admins() {
        let all = scope(r#"{"actions": ["read", "look"], "buckets": ["*"]}"#);
        assert!(all.allows(Action::Read, keys("carts", "x")));
        assert!(all.allows(Action::Look, Target::EveryBucket));
        assert!(!all.allows(Action::Read, keys("_auth", "x")));
        assert!(Scope::everything().allows(Action::Read, keys("_auth", "x")));
        assert!(Scope::everything().allows(Action::AdminLayout, Target::Cluster));
        assert_eq!(
            scope(r#"{"actions": ["read"], "buckets": ["_a*"]}"#).check(),
            Err(ScopeError::OwnBuckets)
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (json, error) in [
            (r#"{"actions": []}"#, ScopeError::NoAction),
            (r#"{"actions": ["read"]}"#, ScopeError::NoBuckets),
            (r#"{"actions": ["admin:buckets"]}"#, ScopeError::NoBuckets),
            (r#"{"actions": ["admin"], "buckets": ["a"]}"#, ScopeError::LimitedAdmin),
            (r#"{"actions": ["admin", "read"], "prefix": "a"}"#, ScopeError::LimitedAdmin),
            (r#"{"actions": ["read"], "buckets": ["a"], "prefix": ""}"#, ScopeError::Prefix),
        ] {
            assert_eq!(scope(json).check(), Err(error), "{json}");
        }
        for bad in [
            r#"{"actions": ["reed"]}"#,
            r#"{"actions": "read"}"#,
            r#"{"actions": ["read"], "buckets": [""]}"#,
            r#"{"actions": ["read"], "buckets": ["a*b"]}"#,
            r#"{"actions": ["read"], "buckets": ["a/b"]}"#,
            r#"{"actions": ["read"], "bucket": ["a"]}"#,
            r#"{"buckets": ["a"]}"#,
        ] {
            assert!(serde_json::from_str::<Scope>(bad).is_err(), "{bad}");
        }
        assert!(check(&vec![Scope::everything(); SCOPES_MAX + 1]).is_err());
    }

    #[test]
    fn nobody_gives_away_more_than_he_has() {
        let own = [
            scope(r#"{"actions": ["read", "write"], "buckets": ["user-*"], "prefix": "a"}"#),
            scope(r#"{"actions": ["admin:auth", "look"]}"#),
        ];
        let covered = |json: &str| cover(&own, &[scope(json)]);
        assert!(covered(
            r#"{"actions": ["read"], "buckets": ["user-1", "user-x*"], "prefix": "ab"}"#
        ));
        assert!(covered(r#"{"actions": ["look"]}"#));
        for more in [
            r#"{"actions": ["read"], "buckets": ["user-1"]}"#,
            r#"{"actions": ["delete"], "buckets": ["user-1"], "prefix": "a"}"#,
            r#"{"actions": ["read"], "buckets": ["*"], "prefix": "a"}"#,
            r#"{"actions": ["look"], "buckets": ["*"]}"#,
            r#"{"actions": ["admin"]}"#,
        ] {
            assert!(!covered(more), "{more}");
        }
        assert!(cover(&[Scope::everything()], &own));
    }

    #[test]
    fn what_is_stored_comes_back_and_keeps_what_a_newer_release_set() {
        let own =
            scope(r#"{"actions": ["read", "admin:repair"], "buckets": ["user-*"], "prefix": "a"}"#);
        let bytes = postcard::to_stdvec(&own).unwrap();
        assert_eq!(postcard::from_bytes::<Scope>(&bytes).unwrap(), own);
        let newer = Actions(1 << 31 | Action::Read.bit());
        let bytes = postcard::to_stdvec(&newer).unwrap();
        assert_eq!(postcard::from_bytes::<Actions>(&bytes).unwrap(), newer);
        assert_eq!(newer.iter().collect::<Vec<_>>(), [Action::Read]);
        for action in Action::ALL {
            assert_eq!(Action::parse(action.name()), Some(*action));
        }
    }
}
