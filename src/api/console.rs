//! The console: an operator's pages, static files in the binary. They read the same routes that
//! clients use.
//!
//! Every file but the page itself lives under a path that names the content of all of them, and
//! never changes: a browser keeps it for good. The page is asked for again each time and names the
//! current path, so that after an upgrade a browser never mixes files of two releases.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use super::gate::Gate;
use super::problem::{Kind, Problem, echo};
use super::route::Answer;

/// What a browser may load and run: only what this node serves, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page is checked with the node each time; its files never change under their path.
const ASK_AGAIN: &str = "no-cache";
const KEEP: &str = "public, max-age=31536000, immutable";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// The page, in which [`MARK`] stands for the version.
const PAGE: &str = include_str!("../console/index.html");
const MARK: &str = "@version@";

/// A file of the console.
struct File {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($media_type:ident: $($name:literal)*;)*) => {
        &[$($(File {
            name: $name,
            media_type: $media_type,
            text: include_str!(concat!("../console/", $name)),
        },)*)*]
    };
}

const FILES: &[File] = files! {
    SCRIPT:
        "about.js" "api.js" "app.js" "buckets.js" "charts.js" "conflicts.js" "dialog.js"
        "diff.js" "dom.js" "explorer.js" "explorer_view.js" "find.js" "findings.js" "follow.js" "format.js"
        "history.js" "holders.js" "inspect.js" "jobs.js" "layout.js" "layout_compare.js"
        "layout_plan.js" "layout_view.js" "live.js" "merge.js" "overview.js"
        "login.js" "promise.js" "ring.js" "slow.js" "theme.js" "timeline.js"
        "typed.js" "typed_view.js" "value.js";
    STYLE: "style.css";
    IMAGE: "icon.svg";
};

/// What is served, made once.
struct Console {
    /// Names the content of all files: 16 hexadecimal digits.
    version: String,
    page: Bytes,
}

static CONSOLE: LazyLock<Console> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in FILES.iter().map(|file| (file.name, file.text)).chain([("", PAGE)]) {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let version = hasher.finalize().to_hex()[..16].to_owned();
    Console { page: PAGE.replace(MARK, &version).into(), version }
});

/// `GET /` and `GET /console`: the page. A query is ignored: browsers come with queries of others.
pub(super) async fn page(_: Gate, request: Request) -> Answer {
    Ok(answer(request.headers(), HTML, ASK_AGAIN, CONSOLE.page.clone()))
}

/// `GET /console/{version}/{file}`: one of its files.
///
/// # Errors
/// 404, also for the files of another release: the page that asks for them must be loaded again.
pub(super) async fn file(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let path = gate.rest(request.uri());
    let found = find(path).ok_or_else(|| {
        let path = echo(request.uri().path());
        let detail = format!("the console of this release has no file {path}; load /console again");
        Problem::new(Kind::NoSuchRoute, detail)
    });
    let file = found?;
    Ok(answer(request.headers(), file.media_type, KEEP, Bytes::from_static(file.text.as_bytes())))
}

/// The file at `{version}/{file}`.
fn find(path: &str) -> Option<&'static File> {
    let (version, name) = path.split_once('/')?;
    FILES.iter().find(|file| version == CONSOLE.version && file.name == name)
}

/// A file, or 304 if the browser has it.
fn answer(
    asked: &HeaderMap,
    media_type: &'static str,
    cache: &'static str,
    text: Bytes,
) -> Response {
    let tag = format!("\"{}-{}\"", CONSOLE.version, text.len());
    let has_it = asked.get_all(IF_NONE_MATCH).iter().any(|tags| {
        let tags = tags.to_str().unwrap_or_default();
        tags.split(',').map(str::trim).any(|it| it == "*" || it.trim_start_matches("W/") == tag)
    });
    let mut response = Response::new(if has_it { Body::empty() } else { Body::from(text) });
    if has_it {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    response.headers_mut().extend([
        fixed(CONTENT_TYPE, media_type),
        fixed(CACHE_CONTROL, cache),
        fixed(CONTENT_SECURITY_POLICY, POLICY),
        fixed(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(REFERRER_POLICY, "no-referrer"),
        fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (ETAG, HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static(""))),
    ]);
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    /// What all files may have together, in bytes.
    const BYTES_MAX: usize = 245_000;

    #[test]
    fn all_files_are_in_the_binary_and_few_bytes() {
        let there: BTreeSet<String> = fs::read_dir("src/console")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        assert_eq!(there, FILES.iter().map(|file| file.name.to_owned()).collect());
        let bytes = FILES.iter().map(|file| file.text.len()).sum::<usize>() + PAGE.len();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
    }

    /// The policy forbids what is inline; the page must not need it, and must come from here alone.
    #[test]
    fn the_page_has_nothing_inline_and_nothing_from_elsewhere() {
        let page = std::str::from_utf8(&CONSOLE.page).unwrap();
        assert!(!page.contains(MARK) && page.contains(&CONSOLE.version));
        for tag in page.split('<').skip(1) {
            assert!(!tag.contains(" style=") && !tag.contains(" on"), "<{tag}");
            assert!(!tag.starts_with("style"), "<{tag}");
            assert!(!tag.starts_with("script") || tag.contains(" src=\"/console/"), "<{tag}");
        }
        for file in FILES {
            let text = file.text.replace("http://www.w3.org/", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", file.name);
            for unsafe_call in [".innerHTML", ".outerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!text.contains(unsafe_call), "{}: {unsafe_call}", file.name);
            }
        }
    }

    #[test]
    fn a_browser_that_has_a_file_gets_304() {
        let page = |headers: &HeaderMap| answer(headers, HTML, ASK_AGAIN, CONSOLE.page.clone());
        let ask = |tags: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(tags).unwrap());
            page(&headers)
        };
        let first = page(&HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[ETAG].to_str().unwrap();
        assert_eq!(ask(tag).status(), StatusCode::NOT_MODIFIED);
        let several = ask(&format!("\"x\", W/{tag}"));
        assert_eq!(several.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(ask("\"other\"").status(), StatusCode::OK);
    }

    #[test]
    fn files_of_another_release_are_not_given() {
        let version = &CONSOLE.version;
        assert!(find(&format!("{version}/app.js")).is_some());
        for path in [
            "0000000000000000/app.js".to_owned(),
            "app.js".to_owned(),
            format!("{version}/"),
            format!("{version}/../app.js"),
            format!("{version}/none.js"),
        ] {
            assert!(find(&path).is_none(), "{path}");
        }
    }
}
