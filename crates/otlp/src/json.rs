//! Spans as a collector takes them: an `ExportTraceServiceRequest` in OTLP's JSON form. Ids are hexadecimal
//! there, 64-bit numbers are text, and enumerations are numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use crate::exporter::Target;
use crate::span::{Event, Kind, Span, Value};

/// `Status.code` of a span that failed.
const STATUS_ERROR: u8 = 2;

/// One request with all these spans.
pub(crate) fn request(target: &Target, spans: &[Span]) -> Json {
    let resource: [(&str, Value); 3] = [
        ("service.name", target.service.into()),
        ("service.instance.id", target.instance.as_str().into()),
        ("service.version", target.version.into()),
    ];
    let scope = json!({"name": target.service, "version": target.version});
    let spans: Vec<Json> = spans.iter().map(of_span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": of_attributes(&resource)},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]})
}

fn of_span(span: &Span) -> Json {
    let mut shown = json!({
        "traceId": hex(&span.trace),
        "spanId": hex(&span.id),
        "name": span.name,
        "kind": match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
        },
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end),
        "attributes": of_attributes(&span.attributes),
        "events": span.events.iter().map(of_event).collect::<Vec<_>>(),
    });
    if let Some(parent) = span.parent {
        shown["parentSpanId"] = hex(&parent).into();
    }
    if let Some(error) = &span.error {
        shown["status"] = json!({"code": STATUS_ERROR, "message": error});
    }
    shown
}

fn of_event(event: &Event) -> Json {
    json!({
        "timeUnixNano": nanoseconds(event.at),
        "name": event.name,
        "attributes": of_attributes(&event.attributes),
    })
}

fn of_attributes(attributes: &[(&str, Value)]) -> Vec<Json> {
    let value = |value: &Value| match value {
        Value::Text(text) => json!({"stringValue": text}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
    };
    attributes.iter().map(|(name, it)| json!({"key": name, "value": value(it)})).collect()
}

/// Since the epoch; a clock before it counts as there.
fn nanoseconds(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_span_has_the_form_that_the_standard_shows() {
        let start = UNIX_EPOCH + Duration::from_nanos(1_544_712_660_000_000_001);
        let (id, trace) = ([0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74], [0x5b; 16]);
        let event = Event { name: "quorum", at: start, attributes: vec![("n", 3.into())] };
        let span = Span {
            trace,
            id,
            parent: Some([1; 8]),
            kind: Kind::Client,
            name: "store at n2".to_owned(),
            start,
            end: start + Duration::from_secs(1),
            attributes: vec![("quorate.peer", "n\"2".into())],
            events: vec![event],
            error: Some("silent".to_owned()),
        };
        let (service, instance, version) = ("quorate", "n1".to_owned(), "1");
        let target = Target { endpoint: String::new(), service, instance, version };
        let root = Span { parent: None, kind: Kind::Server, error: None, ..span.clone() };
        let request = request(&target, &[span, root]);
        let part = &request["resourceSpans"][0];
        let instance = json!({"key": "service.instance.id", "value": {"stringValue": "n1"}});
        assert_eq!(part["resource"]["attributes"][1], instance);
        let spans = &part["scopeSpans"][0]["spans"];
        let expected = json!({
            "traceId": "5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b",
            "spanId": "eee19b7ec3c1b174",
            "parentSpanId": "0101010101010101",
            "name": "store at n2",
            "kind": 3,
            "startTimeUnixNano": "1544712660000000001",
            "endTimeUnixNano": "1544712661000000001",
            "attributes": [{"key": "quorate.peer", "value": {"stringValue": "n\"2"}}],
            "events": [{
                "timeUnixNano": "1544712660000000001",
                "name": "quorum",
                "attributes": [{"key": "n", "value": {"intValue": "3"}}],
            }],
            "status": {"code": 2, "message": "silent"},
        });
        assert_eq!(spans[0], expected);
        assert_eq!((&spans[1]["kind"], spans[1].get("status")), (&json!(2), None));
        assert_eq!(spans[1].get("parentSpanId"), None, "the first of a trace");
    }
}
