//! Commands on values that expire, and on many at once.

use serde_json::{Value, json};

use super::{Case, Cli};
use crate::common::until;

#[test]
fn values_are_given_an_end() {
    let cli = Cli::start();
    let steps: &[Case<'_>] = &[
        (&["put", "b/short", "v", "--expires-in", "1s"], 0, "stored", ""),
        (&["put", "b/long", "v", "--expires-in", "7d"], 0, "stored", ""),
        (&["put", "b/wrong", "v", "--expires-in", "0s"], 2, "", "--expires-in"),
        (&["put", "b/wrong", "v", "--expires-in", "soon"], 2, "", "--expires-in"),
        (&["bucket", "set", "sessions", "--expires-in", "30d"], 0, "30", ""),
        (&["put", "sessions/usual", "v"], 0, "stored", ""),
        (&["put", "sessions/kept", "v", "--expires-in", "never"], 0, "stored", ""),
        (&["bucket", "set", "sessions", "--expires-in", "never"], 0, "never", ""),
    ];
    for step in steps {
        cli.run(step.0).check(*step);
    }
    let end = |key: &str| cli.json(&["get", key], 0)["expires_at"].clone();
    assert!(end("b/long").is_string() && end("sessions/usual").is_string());
    assert_eq!(end("sessions/kept"), Value::Null);
    until("a value to expire", || cli.run(&["get", "b/short"]).err.contains("has expired"));
}

#[test]
fn many_operations_are_read_from_lines() {
    let cli = Cli::start();
    let lines = [
        json!({"op": "put", "bucket": "b", "key": "one", "value": "1", "expires_in": "1h"}),
        json!({"op": "put", "bucket": "b", "key": "two", "value": "/wA=", "encoding": "base64"}),
        json!({"op": "get", "bucket": "b", "key": "nothing"}),
    ];
    let text = lines.map(|line| line.to_string()).join("\n");
    let ran = cli.pipe(&["batch"], text.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    let results: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |name: &str| results.iter().map(|result| result[name].clone()).collect::<Vec<_>>();
    assert_eq!(told("result"), [json!("stored"), json!("stored"), json!("absent")], "{ran:?}");
    assert_eq!(told("key"), [json!("one"), json!("two"), json!("nothing")]);
    let read = cli.pipe(&["batch"], br#"{"op": "get", "bucket": "b", "key": "one"}"#);
    let read: Value = serde_json::from_str(read.out.trim()).unwrap();
    assert_eq!((&read["result"], &read["value"]), (&json!("value"), &json!("1")), "{read}");
    let bad = cli.pipe(&["batch"], b"{\"op\": \"get\", \"bucket\": \"b\"}\n");
    assert_ne!(bad.code, 0, "{bad:?}");
    assert!(bad.err.contains("key"), "{bad:?}");
}
