//! `GET /index/{bucket}/{index}`: the keys that have a value with some entry of a secondary index.

use axum::extract::Request;
use quorate_engine::ops::listing::{self, LIMIT_MAX, Page};
use quorate_protocol::index::{Hit, IndexName, IndexRange, IndexRequest, IndexValue};
use quorate_protocol::name::Bucket;
use serde_json::{Value, json};

use super::gate::Gate;
use super::index_entries::value_json;
use super::problem::Problem;
use super::query::Params;
use super::route::Answer;
use super::{cursor, path, represent};

/// Default page size.
const LIMIT_DEFAULT: usize = 100;

/// `GET /index/{bucket}/{index}?eq=|from=&to=&limit=&cursor=`.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let (bucket, index) = place(gate.rest(request.uri()))?;
    let params = gate.params(request.uri())?;
    let range = range(index, &params)?;
    let scope = scope(&bucket, &range);
    let decode = |position: &[u8]| serde_json::from_slice(position).ok();
    let after: Option<Hit> =
        params.cursor.as_deref().map(|it| cursor::open(it, &scope, decode)).transpose()?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT).min(usize::from(LIMIT_MAX)) as u16;
    let question = IndexRequest { bucket, range, after, limit };
    let mut pass = gate.enter(&params)?;
    pass.begin();
    let Page { items, next, is_complete } = listing::list(&gate.node, &question).await;
    pass.end();
    let next = next.and_then(|hit| serde_json::to_vec(&hit).ok());
    let shown = |hit: &Hit| json!({"value": value_json(&hit.value), "key": hit.key.key()});
    Ok(represent::json(&json!({
        "bucket": question.bucket,
        "index": question.range.index.as_str(),
        "entries": items.iter().map(shown).collect::<Vec<Value>>(),
        "cursor": next.map(|position| cursor::of(&scope, &position)),
        "complete": is_complete,
    })))
}

/// The bucket and the index in the path after the route.
///
/// # Errors
/// 400 `bad_path`.
pub(super) fn place(rest: &str) -> Result<(Bucket, IndexName), Problem> {
    let (bucket, index) = rest.split_once('/').unwrap_or((rest, ""));
    let index = IndexName::parse(index).map_err(|error| Problem::bad_path(error.to_string()))?;
    Ok((path::bucket(bucket)?, index))
}

/// The range that the parameters name.
///
/// # Errors
/// 400 that names the parameter.
pub(super) fn range(index: IndexName, params: &Params) -> Result<IndexRange, Problem> {
    let end = |name: &str, text: &Option<String>| -> Result<Option<IndexValue>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let value = index.value(text);
        value.map(Some).map_err(|error| Problem::bad_parameter(name, error.to_string()))
    };
    let (eq, from, to) =
        (end("eq", &params.eq)?, end("from", &params.from)?, end("to", &params.to)?);
    if eq.is_some() && (from.is_some() || to.is_some()) {
        return Err(Problem::bad_parameter("eq", "cannot be combined with from or to"));
    }
    if let (Some(from), Some(to)) = (&from, &to)
        && from > to
    {
        return Err(Problem::bad_parameter("from", "is greater than to"));
    }
    let (from, to) = (from.or_else(|| eq.clone()), to.or(eq));
    Ok(IndexRange { index, from, to })
}

/// What a cursor belongs to.
fn scope(bucket: &Bucket, range: &IndexRange) -> Vec<u8> {
    json!([bucket, range]).to_string().into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(index: &str, query: &str) -> Result<IndexRange, String> {
        let params = Params::parse(Some(query), &["eq", "from", "to"]);
        let range = |params| range(IndexName::parse(index).unwrap(), &params);
        params.and_then(range).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn a_range_is_one_value_or_has_ends() {
        let text = |text: &str| Some(IndexValue::Text(text.into()));
        let one = parsed("a_s", "eq=x%2Cy").unwrap();
        assert_eq!((one.from, one.to), (text("x,y"), text("x,y")));
        let open = parsed("a_i", "from=-5").unwrap();
        assert_eq!((open.from, open.to), (Some(IndexValue::Integer(-5)), None));
        for (index, query, why) in [
            ("a_i", "eq=x", "eq: must be a whole number"),
            ("a_s", "eq=", "eq: text in an index has"),
            ("a_i", "eq=1&to=2", "eq: cannot be combined"),
            ("a_i", "from=2&to=1", "from: is greater than to"),
        ] {
            let detail = parsed(index, query).unwrap_err();
            assert!(detail.contains(why), "{detail}");
        }
    }

    #[test]
    fn a_path_has_a_bucket_and_an_index() {
        assert!(place("users/email_s").is_ok());
        for bad in ["users", "users/", "users/email", "us%2Fers/email_s", "/email_s", "users/a_s/b"]
        {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
