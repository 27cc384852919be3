#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::value::sealed::Sealed;
use super::*;
use crate::data_type::DataType;

#[test]
fn counters_are_read_to_their_last_digit() {
    let read = |json: Json| i128::of_json(DataType::Counter, json).unwrap();
    assert_eq!(read(json!(-7)), -7);
    assert_eq!(read(json!(u64::MAX)), i128::from(u64::MAX));
    assert_eq!(read(json!("-18446744073709551616")), -18_446_744_073_709_551_616);
    for bad in [json!(1.5), json!("7 "), json!(null), json!([1]), json!(1e300)] {
        assert!(i128::of_json(DataType::Counter, bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn the_other_values_are_read_or_refused() {
    let tags = |json: Json| BTreeSet::<String>::of_json(DataType::Set, json);
    assert_eq!(tags(json!(["b", "a"])).unwrap(), ["a", "b"].map(str::to_owned).into());
    assert!(tags(json!(["a", 7])).is_err());
    assert_eq!(Option::<String>::of_json(DataType::RegisterLww, json!(null)).unwrap(), None);
    assert!(Option::<String>::of_json(DataType::RegisterLww, json!(7)).is_err());
    assert!(u64::of_json(DataType::Hll, json!(-1)).is_err());
    assert!(bool::of_json(DataType::Flag, json!(null)).is_err());
    let shown = json!({"name": {"register_lww": "Ann", "flag": true}, "tags": {"set": ["x"]}});
    let fields = Fields::of_json(DataType::Map, shown.clone()).unwrap();
    assert_eq!(fields["name"].register.as_deref(), Some("Ann"));
    assert!(fields["name"].flag && fields["name"].set.is_empty());
    assert!(fields["tags"].set.contains("x") && !fields["tags"].flag);
    assert_eq!(serde_json::to_value(&fields).unwrap(), shown);
    assert!(Fields::of_json(DataType::Map, json!({"name": {"flag": 7}})).is_err());
}

#[test]
fn a_value_of_any_type_is_read_by_its_type() {
    for (data_type, json) in [
        (DataType::Counter, json!(-7)),
        (DataType::Set, json!(["a"])),
        (DataType::Flag, json!(true)),
        (DataType::Map, json!({"a": {"flag": true}})),
        (DataType::RegisterLww, json!(null)),
        (DataType::Hll, json!(7)),
    ] {
        assert_eq!(AnyValue::of_json(data_type, json).unwrap().data_type(), data_type);
        assert!(AnyValue::of_json(data_type, json!([[]])).is_err(), "{data_type}");
    }
    assert!(AnyValue::of_json(DataType::Unknown, json!(7)).is_err());
}

#[test]
fn changes_are_sent_as_nodes_read_them() {
    let change = SetChange::new().with(["a"]).without(["b", "c"]);
    assert_eq!(change.json(), json!({"add": ["a"], "remove": ["b", "c"]}));
    let change = MapChange::new().assign("name", "Ann").add("tags", ["x"]).enable("on");
    assert!(!change.removes());
    let change = change.remove_from("tags", ["y"]);
    assert!(change.removes());
    let expected = json!({"update": {
        "name": {"register_lww": "Ann"},
        "tags": {"set": {"add": ["x"], "remove": ["y"]}},
        "on": {"flag": true},
    }});
    assert_eq!(change.json(), expected);
    assert!(MapChange::new().disable("on").removes());
    let change = MapChange::new().remove("old");
    assert!(change.removes());
    assert_eq!(change.json(), json!({"remove": ["old"]}));
}
