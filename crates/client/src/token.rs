//! What a client sends as `Authorization`.

use std::fmt;
use std::sync::Arc;

use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderValue};

use crate::error::Error;

/// A token, if there is one: always the same, or made for each attempt.
#[derive(Clone)]
pub(crate) enum Token {
    None,
    Fixed(String),
    Made(Arc<dyn Fn() -> Option<String> + Send + Sync>),
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Fixed(_) => "Fixed",
            Self::Made(_) => "Made",
        })
    }
}

impl Token {
    /// Whether it can be sent, as far as that is known before.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Fixed(token) if header(token).is_none() => {
                Err(Error::invalid("token", "must be visible ASCII characters only"))
            }
            Self::None | Self::Fixed(_) | Self::Made(_) => Ok(()),
        }
    }

    /// Adds it to a request.
    pub(crate) fn sent_with(&self, request: RequestBuilder) -> RequestBuilder {
        let value = match self {
            Self::None => None,
            Self::Fixed(token) => header(token),
            Self::Made(make) => make().as_deref().and_then(header),
        };
        match value {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }
}

fn header(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
