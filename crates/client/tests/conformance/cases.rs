//! Cases as they are written: YAML, read as JSON values.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};
use yaml_rust2::{Yaml, YamlLoader};

/// One case.
pub(crate) struct Case(Map<String, Json>);

impl Case {
    pub(crate) fn name(&self) -> String {
        self.0["name"].as_str().unwrap().to_owned()
    }

    pub(crate) fn needs(&self) -> Vec<String> {
        list(self.0.get("needs")).iter().map(|need| need.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn server(&self) -> &str {
        self.0.get("server").map_or("cluster", |server| server.as_str().unwrap())
    }

    pub(crate) fn stub(&self) -> Vec<Json> {
        list(self.0.get("stub"))
    }

    /// The answers of the stub to `GET /cluster`; none if its client does not look.
    pub(crate) fn looks(&self) -> Vec<Json> {
        list(self.0.get("looks"))
    }

    pub(crate) fn client(&self) -> Map<String, Json> {
        self.0.get("client").map(|client| client.as_object().unwrap().clone()).unwrap_or_default()
    }

    pub(crate) fn steps(&self) -> Vec<Map<String, Json>> {
        let steps = list(self.0.get("steps"));
        steps.into_iter().map(|step| step.as_object().unwrap().clone()).collect()
    }
}

fn list(value: Option<&Json>) -> Vec<Json> {
    value.map(|list| list.as_array().unwrap().clone()).unwrap_or_default()
}

/// Where the cases are: `QUORATE_CONFORMANCE`, else in this repository.
fn dir() -> PathBuf {
    let given = std::env::var_os("QUORATE_CONFORMANCE").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/conformance"))
}

/// All cases of all files.
pub(crate) fn all() -> Vec<Case> {
    let (mut cases, mut names) = (Vec::new(), BTreeSet::new());
    let files =
        std::fs::read_dir(dir()).unwrap_or_else(|error| panic!("{}: {error}", dir().display()));
    for file in files.map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let parsed = YamlLoader::load_from_str(&text);
        let documents = parsed.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let document = json(&documents[0]);
        only(document.as_object().unwrap(), &["cases"]).unwrap();
        for case in list(document.get("cases")) {
            let case = case.as_object().unwrap().clone();
            let known = ["name", "about", "server", "stub", "looks", "needs", "client", "steps"];
            only(&case, &known).unwrap();
            let case = Case(case);
            assert!(names.insert(case.name()), "{} is there twice", case.name());
            cases.push(case);
        }
    }
    cases
}

/// Refuses members that no check would look at.
pub(crate) fn only(map: &Map<String, Json>, known: &[&str]) -> Result<(), String> {
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("{name}: unknown to this runner")),
        None => Ok(()),
    }
}

fn json(yaml: &Yaml) -> Json {
    match yaml {
        Yaml::Real(text) => text.parse::<f64>().unwrap().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::String(text) => text.clone().into(),
        Yaml::Boolean(is) => (*is).into(),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(members) => {
            let name =
                |name: &Yaml| name.as_str().map_or_else(|| json(name).to_string(), str::to_owned);
            Json::Object(members.iter().map(|(key, value)| (name(key), json(value))).collect())
        }
        Yaml::Null => Json::Null,
        Yaml::Alias(_) | Yaml::BadValue => panic!("the YAML of cases is plain"),
    }
}

/// The bytes of a value: text, `{base64: TEXT}`, or `{pattern: N}`.
pub(crate) fn bytes(value: &Json) -> Result<Vec<u8>, String> {
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let map = value.as_object().ok_or_else(|| format!("{value}: no value"))?;
    only(map, &["base64", "pattern"])?;
    match (map.get("base64"), map.get("pattern").and_then(Json::as_u64)) {
        (Some(text), None) => {
            STANDARD.decode(text.as_str().unwrap_or_default()).map_err(|error| error.to_string())
        }
        (None, Some(length)) => Ok((0..length).map(|at| (at % 251) as u8).collect()),
        (Some(_), Some(_)) | (None, None) => Err(format!("{value}: no value")),
    }
}
