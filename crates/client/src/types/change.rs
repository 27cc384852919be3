//! Changes of sets and maps, put together before they are sent.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

/// What is added to a set, and what is removed from what was read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SetChange {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
}

impl SetChange {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds these elements as well.
    #[must_use]
    pub fn with<I>(mut self, elements: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.add.extend(elements.into_iter().map(Into::into));
        self
    }

    /// Removes these elements as well.
    #[must_use]
    pub fn without<I>(mut self, elements: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.remove.extend(elements.into_iter().map(Into::into));
        self
    }

    pub(super) fn json(self) -> Json {
        json_of(&self)
    }
}

/// What is changed of a map: any number of its fields, at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapChange {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    update: BTreeMap<String, FieldChange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
}

/// What is changed of the fields of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct FieldChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    register_lww: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<SetChange>,
}

impl MapChange {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the text of a field.
    #[must_use]
    pub fn assign(mut self, field: impl Into<String>, text: impl Into<String>) -> Self {
        self.field(field).register_lww = Some(text.into());
        self
    }

    /// Switches a field on.
    #[must_use]
    pub fn enable(mut self, field: impl Into<String>) -> Self {
        self.field(field).flag = Some(true);
        self
    }

    /// Switches a field off, as far as it was read.
    #[must_use]
    pub fn disable(mut self, field: impl Into<String>) -> Self {
        self.field(field).flag = Some(false);
        self
    }

    /// Adds elements to the set of a field.
    #[must_use]
    pub fn add<I>(self, field: impl Into<String>, elements: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.set(field, |set| set.with(elements))
    }

    /// Removes elements from the set of a field, as far as they were read.
    #[must_use]
    pub fn remove_from<I>(self, field: impl Into<String>, elements: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.set(field, |set| set.without(elements))
    }

    /// Removes a field with all that was read of it.
    #[must_use]
    pub fn remove(mut self, field: impl Into<String>) -> Self {
        self.remove.push(field.into());
        self
    }

    fn set(
        mut self,
        field: impl Into<String>,
        change: impl FnOnce(SetChange) -> SetChange,
    ) -> Self {
        let field = self.field(field);
        field.set = Some(change(field.set.take().unwrap_or_default()));
        self
    }

    fn field(&mut self, field: impl Into<String>) -> &mut FieldChange {
        self.update.entry(field.into()).or_default()
    }

    /// Whether a part of it removes, and so needs a context.
    pub(super) fn removes(&self) -> bool {
        let of_field = |field: &FieldChange| {
            field.flag == Some(false)
                || field.set.as_ref().is_some_and(|set| !set.remove.is_empty())
        };
        !self.remove.is_empty() || self.update.values().any(of_field)
    }

    pub(super) fn json(self) -> Json {
        json_of(&self)
    }
}

/// Maps with string keys, lists, strings and booleans always have a form in JSON.
fn json_of(change: &impl Serialize) -> Json {
    serde_json::to_value(change).unwrap_or_default()
}
