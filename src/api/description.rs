//! `GET /openapi.json`: the description of this API, as OpenAPI 3.1.
//!
//! It is written by hand in `docs/openapi.json` and held to the code by tests: here for problems, in
//! `routes` for what is in the table, in `tests/contract/openapi.rs` for what a node answers.

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::gate::Gate;
use super::route::Answer;

pub(super) const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

/// `GET /openapi.json`.
pub(super) async fn show(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    Ok(([(CONTENT_TYPE, "application/json")], DESCRIPTION).into_response())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::super::problem::Kind;
    use super::*;

    #[test]
    fn every_problem_is_described_under_its_status_and_no_other_is() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let real: BTreeMap<String, u16> =
            Kind::ALL.iter().map(|kind| (kind.name().to_owned(), kind.status().as_u16())).collect();
        let types = &description["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
        let types: BTreeSet<&str> = types
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().strip_prefix("urn:quorate:problem:").unwrap())
            .collect();
        assert_eq!(types, real.keys().map(String::as_str).collect());
        let mut described = BTreeSet::new();
        for operation in description["paths"].as_object().unwrap().values() {
            for (method, operation) in operation.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    for name in response["x-problems"].as_array().into_iter().flatten() {
                        let name = name.as_str().unwrap();
                        let real = real[name].to_string();
                        assert_eq!(
                            &real, status,
                            "{name} of {method} {}",
                            operation["operationId"]
                        );
                        described.insert(name.to_owned());
                    }
                }
            }
        }
        // These two are answers to requests that match no operation.
        let general = ["no_such_route", "method_not_allowed"].map(str::to_owned);
        assert_eq!(&described | &general.into(), real.into_keys().collect());
    }
}
