//! Control plane and agents one minor version apart understand each other: what
//! an earlier release sent is read, and what a later one adds is passed over.
//!
//! `wire/0.1` holds messages as 0.1 sends them. They never change; a release
//! that sends others adds a folder of its own and keeps the one before.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use updraft_api::agent::{ComponentState, FetchBlobs, Report, ReportAnswer, Wanted};
use updraft_api::{ErrorBody, ErrorCode};

/// The same message with something unknown in each object that has named fields.
fn from_a_later_release(mut message: Value) -> Value {
    fn add(value: &mut Value, is_map: bool) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    add(field, matches!(name.as_str(), "environment" | "bundles"));
                }
                if !is_map {
                    fields.insert("added_later".into(), json!({"reason": [1, "two"]}));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| add(item, false)),
            _ => {}
        }
    }
    add(&mut message, false);
    message
}

/// Everything that is in `before` is in `after`, which may have more.
fn assert_holds(after: &Value, before: &Value, at: &str) {
    match (after, before) {
        (Value::Object(after), Value::Object(before)) => {
            for (name, value) in before {
                let empty = value.is_null() || *value == json!([]) || *value == json!({});
                match after.get(name) {
                    Some(kept) => assert_holds(kept, value, &format!("{at}.{name}")),
                    None => assert!(empty, "{at}.{name} was lost"),
                }
            }
        }
        (Value::Array(after), Value::Array(before)) => {
            assert_eq!(after.len(), before.len(), "{at}");
            for (after, before) in after.iter().zip(before) {
                assert_holds(after, before, at);
            }
        }
        _ => assert_eq!(after, before, "{at}"),
    }
}

fn understood<T: Serialize + DeserializeOwned>(text: &str) {
    let message: Value = serde_json::from_str(text).unwrap();
    for received in [message.clone(), from_a_later_release(message.clone())] {
        let read: T = serde_json::from_value(received).unwrap();
        assert_holds(&serde_json::to_value(&read).unwrap(), &message, "message");
    }
}

#[test]
fn what_is_wanted() {
    understood::<Wanted>(include_str!("wire/0.1/wanted.json"));
}

#[test]
fn reports() {
    understood::<Report>(include_str!("wire/0.1/report.json"));
    understood::<ReportAnswer>(include_str!("wire/0.1/report_answer.json"));
}

/// A word that only a later release knows leaves the rest of a message readable.
#[test]
fn words_of_a_later_release() {
    let mut report: Value = serde_json::from_str(include_str!("wire/0.1/report.json")).unwrap();
    report["airflow"]["components"][0]["state"] = json!("hibernating");
    let report: Report = serde_json::from_value(report).unwrap();
    let component = &report.airflow.unwrap().components[0];
    assert_eq!(component.state, ComponentState::Unknown);

    let refused = json!({"code": "too_windy", "message": "not today", "request_id": "1"});
    let refused: ErrorBody = serde_json::from_value(refused).unwrap();
    assert_eq!(refused.code, ErrorCode::Unknown);
    assert_eq!(refused.message, "not today");
}

#[test]
fn questions_for_blobs() {
    understood::<FetchBlobs>(include_str!("wire/0.1/fetch_blobs.json"));
}
