//! A bucket of an S3-compatible store. Credentials, the region and the endpoint come from the variables
//! that other clients of such stores read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
//! `AWS_ENDPOINT_URL`, and what else `object_store` knows.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

/// How often a request is sent again, with pauses that double from 100 ms, and for how long.
const RETRIES_MAX: usize = 7;
const RETRIES_WITHIN: Duration = Duration::from_secs(60);
/// How long one request may take, unless `AWS_TIMEOUT` says otherwise: parts have 8 MiB, and lines may be
/// slow.
const REQUEST_WITHIN: &str = "120s";

/// Opens `BUCKET/PREFIX`. Nothing is asked yet.
///
/// # Errors
/// It is none, or a variable is wrong.
pub(crate) fn open(rest: &str) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    let (bucket, prefix) = parse(rest)?;
    let retries = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRIES_WITHIN,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries);
    if std::env::var_os("AWS_TIMEOUT").is_none() {
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        builder = builder.with_config(timeout, REQUEST_WITHIN);
    }
    let value = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or(value(AmazonS3ConfigKey::Endpoint));
    let allows_http = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    check_endpoint(endpoint.as_deref(), allows_http.as_deref())?;
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok((Arc::new(store), prefix))
}

/// Backups are not encrypted: they go over plain HTTP only if that was said.
fn check_endpoint(endpoint: Option<&str>, allows_http: Option<&str>) -> Result<(), String> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    match endpoint.split_once("://") {
        Some(("https", _)) => Ok(()),
        Some(("http", _)) if allows_http == Some("true") => Ok(()),
        Some(("http", _)) => {
            Err("the endpoint (AWS_ENDPOINT_URL) is plain HTTP, and backups are not encrypted: \
                                  if that is meant, set AWS_ALLOW_HTTP=true"
                .to_owned())
        }
        Some(_) | None => {
            Err("the endpoint (AWS_ENDPOINT_URL) must begin with https:// or http://".to_owned())
        }
    }
}

fn parse(rest: &str) -> Result<(&str, Path), String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_fit =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_fit) {
        return Err(
            "expected s3://BUCKET or s3://BUCKET/PREFIX, and a bucket is 3 to 63 of a-z 0-9 . -"
                .to_owned(),
        );
    }
    if prefix.starts_with('/') {
        return Err("the prefix begins with a slash, which would be dropped".to_owned());
    }
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| error.to_string())?;
    Ok((bucket, prefix))
}

/// What an answer of such a store says, without its markup; the text as it is if it is none.
pub(crate) fn in_words(text: &str) -> String {
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0)
    };
    match (part("Code"), part("Message")) {
        (Some(code), Some(message)) => format!("the store answered {code}: {message}"),
        (Some(code), None) => format!("the store answered {code}"),
        (None, _) => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_prefixes_are_parsed() {
        assert_eq!(parse("bucket/some/prefix/").unwrap(), ("bucket", Path::from("some/prefix")));
        assert_eq!(parse("bucket").unwrap(), ("bucket", Path::default()));
        for bad in
            ["", "ab", "/x", "Bucket", "key:secret@bucket", "bucket//x", "bucket/../x", "b\nx/y"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_must_be_meant() {
        assert!(check_endpoint(None, None).is_ok());
        assert!(check_endpoint(Some("https://h"), None).is_ok());
        assert!(check_endpoint(Some("http://h"), Some("true")).is_ok());
        for (endpoint, allows) in
            [("http://h", None), ("http://h", Some("false")), ("h:1", Some("true"))]
        {
            assert!(check_endpoint(Some(endpoint), allows).is_err(), "{endpoint} {allows:?}");
        }
    }

    #[test]
    fn answers_are_shown_in_words() {
        let denied = "403: <?xml?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
        assert_eq!(in_words(denied), "the store answered AccessDenied: No.");
        for other in ["", "x", "<Code>", "<Message>a</Message>"] {
            assert_eq!(in_words(other), other);
        }
    }
}
