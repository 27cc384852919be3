//! `docs/api.md` is rendered from `docs/openapi.json`. `UPDATE_DOCS=1` writes it afresh.

use std::fmt::Write as _;

use serde_json::Value;

const DESCRIPTION: &str = include_str!("../../docs/openapi.json");
const REFERENCE: &str = "docs/api.md";

/// A description of the given page, complete.
fn render(description: &Value) -> String {
    let mut page =
        "# HTTP reference\n\nRendered from [openapi.json](openapi.json), which every node \
                    serves at `/openapi.json`.\n\n"
            .to_owned();
    let _ = writeln!(page, "{}", text(&description["info"]["description"]));
    for tag in description["tags"].as_array().unwrap() {
        let _ = writeln!(page, "\n## {}\n\n{}", title(&tag["name"]), text(&tag["description"]));
        for (path, operations) in description["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                if operation["tags"][0] == tag["name"] {
                    render_operation(&mut page, description, (method, path), operation);
                }
            }
        }
    }
    let _ = writeln!(page, "\n## Bodies");
    for (name, schema) in description["components"]["schemas"].as_object().unwrap() {
        render_schema(&mut page, name, schema);
    }
    page
}

fn render_operation(
    page: &mut String,
    description: &Value,
    (method, path): (&str, &str),
    operation: &Value,
) {
    let _ = writeln!(page, "\n### {} {path}\n", method.to_uppercase());
    let _ = writeln!(page, "{}.", text(&operation["summary"]));
    if operation["description"].is_string() {
        let _ = writeln!(page, "{}", text(&operation["description"]));
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let mut parameters = parameters.map(|it| find(description, it)).peekable();
    if parameters.peek().is_some() {
        let _ = writeln!(page, "\n| parameter | in | |\n| --- | --- | --- |");
    }
    for it in parameters {
        let about = cell(&it["description"]);
        let _ = writeln!(page, "| `{}` | {} | {about} |", text(&it["name"]), text(&it["in"]));
    }
    if operation["requestBody"].is_object() {
        let body = &operation["requestBody"];
        let _ = writeln!(page, "\nBody: {}. {}", content(body), text(&body["description"]));
    }
    let _ = writeln!(page, "\n| status | | body |\n| --- | --- | --- |");
    for (status, response) in operation["responses"].as_object().unwrap() {
        let about = cell(&response["description"]);
        let _ = writeln!(page, "| {status} | {about} | {} |", content(response));
    }
}

fn render_schema(page: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(page, "\n### {name}\n");
    if schema["description"].is_string() {
        let _ = writeln!(page, "{}\n", text(&schema["description"]));
    }
    let Some(properties) = schema["properties"].as_object() else {
        let _ = writeln!(page, "{}", kind(schema));
        return;
    };
    let _ = writeln!(page, "| member | type | |\n| --- | --- | --- |");
    for (name, property) in properties {
        let about = cell(&property["description"]);
        let _ = writeln!(page, "| `{name}` | {} | {about} |", kind(property).replace('|', "\\|"));
    }
}

/// What a body or one of its parts is, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(to) = schema["$ref"].as_str() {
        let name = to.rsplit('/').next().unwrap();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for (word, joint) in [("oneOf", " or "), ("allOf", " and ")] {
        if let Some(parts) = schema[word].as_array() {
            return parts.iter().map(kind).collect::<Vec<_>>().join(joint);
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{}`", text(word))).collect::<Vec<_>>().join(", ");
    }
    if !schema["const"].is_null() {
        return format!("`{}`", schema["const"]);
    }
    let word = &schema["type"];
    if let Some(words) = word.as_array() {
        return words.iter().map(text).collect::<Vec<_>>().join(" or ");
    }
    match (text(word), schema["properties"].as_object()) {
        ("array", _) => format!("list of {}", kind(&schema["items"])),
        ("object", Some(members)) => {
            let names: Vec<String> = members.keys().map(|name| format!("`{name}`")).collect();
            format!("object: {}", names.join(", "))
        }
        ("", _) => "anything".to_owned(),
        (word, _) => word.to_owned(),
    }
}

fn content(of: &Value) -> String {
    let content = of["content"].as_object().into_iter().flatten();
    let shown = content.map(|(media_type, it)| match kind(&it["schema"]).as_str() {
        "anything" | "string" | "object" => format!("`{media_type}`"),
        kind => format!("{kind} as `{media_type}`"),
    });
    shown.collect::<Vec<_>>().join(" or ")
}

fn find<'a>(description: &'a Value, reference: &'a Value) -> &'a Value {
    let to = reference["$ref"].as_str().unwrap();
    description.pointer(&to[1..]).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn cell(value: &Value) -> String {
    text(value).replace('|', "\\|").replace('\n', " ")
}

fn title(name: &Value) -> String {
    let name = text(name);
    format!("{}{}", name[..1].to_uppercase(), &name[1..])
}

#[test]
fn the_reference_page_is_up_to_date() {
    let rendered = render(&serde_json::from_str(DESCRIPTION).unwrap());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(REFERENCE, &rendered).unwrap();
    }
    let page = std::fs::read_to_string(REFERENCE).unwrap_or_default();
    assert!(
        page == rendered,
        "{REFERENCE} is not what openapi.json says: run this with UPDATE_DOCS=1"
    );
}
