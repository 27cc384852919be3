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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::tls::TlsSettings;

    #[test]
    fn a_token_is_made_for_each_request() {
        let tls = TlsSettings::default().config(false).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        let sent = |token: &Token| {
            let request = token.sent_with(http.get("http://h")).build().unwrap();
            let value = request.headers().get(AUTHORIZATION)?;
            assert!(value.is_sensitive());
            Some(value.to_str().unwrap().to_owned())
        };
        assert_eq!(sent(&Token::None), None);
        assert_eq!(sent(&Token::Fixed("a".to_owned())).as_deref(), Some("Bearer a"));
        let made = AtomicU32::new(0);
        let token = Token::Made(Arc::new(move || Some(made.fetch_add(1, Relaxed).to_string())));
        let both = [sent(&token), sent(&token)];
        assert_eq!(both, [Some("Bearer 0".to_owned()), Some("Bearer 1".to_owned())]);
        assert_eq!(sent(&Token::Made(Arc::new(|| None))), None);
        assert_eq!(sent(&Token::Made(Arc::new(|| Some("a\nb".to_owned())))), None);
    }
}
