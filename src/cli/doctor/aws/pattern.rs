//! EventBridge event patterns: whether a rule matches an event
//! (<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html>).

use serde_json::Value;

use super::policy::is_like;

/// Whether an event matches a pattern. Comparisons of numbers and addresses count as not matching.
pub(super) fn meets(pattern: &Value, event: &Value) -> bool {
    pattern.as_object().is_some_and(|members| {
        members.iter().all(|(name, wanted)| match wanted {
            Value::Array(alternatives) if name == "$or" => alternatives.iter().any(|pattern| meets(pattern, event)),
            Value::Array(wanted) => is_one_of(wanted, event.get(name)),
            wanted => meets(wanted, event.get(name).unwrap_or(&Value::Null)),
        })
    })
}

fn is_one_of(wanted: &[Value], found: Option<&Value>) -> bool {
    wanted.iter().any(|wanted| match (wanted, found) {
        (Value::Object(operator), found) => {
            operator.iter().all(|(operator, operand)| operate(operator, operand, found))
        }
        (wanted, Some(Value::Array(found))) => found.contains(wanted),
        (wanted, found) => found == Some(wanted),
    })
}

fn operate(operator: &str, operand: &Value, found: Option<&Value>) -> bool {
    if operator == "exists" {
        return operand.as_bool() == Some(found.is_some());
    }
    let Some(found) = found else { return false };
    if operator == "anything-but" {
        return match operand {
            Value::Array(others) => !others.contains(found),
            Value::Object(operator) => !operator.iter().all(|(name, operand)| operate(name, operand, Some(found))),
            other => other != found,
        };
    }
    let ignores_case = operand.get("equals-ignore-case");
    let (Some(operand), Some(found)) = (ignores_case.unwrap_or(operand).as_str(), found.as_str()) else { return false };
    let lower = |text: &str| if ignores_case.is_some() { text.to_lowercase() } else { text.to_owned() };
    match operator {
        "prefix" => lower(found).starts_with(&lower(operand)),
        "suffix" => lower(found).ends_with(&lower(operand)),
        "equals-ignore-case" => found.to_lowercase() == operand.to_lowercase(),
        "wildcard" => is_like(operand, found),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operators() {
        let event = json!({ "source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail", "detail": { "readOnly": false } });
        for (pattern, expected) in [
            (json!({}), true),
            (json!({ "source": ["aws.s3", "aws.ec2"] }), true),
            (json!({ "source": ["aws.s3"] }), false),
            (json!({ "source": [{ "prefix": "aws." }] }), true),
            (json!({ "source": [{ "prefix": { "equals-ignore-case": "AWS." } }] }), true),
            (json!({ "source": [{ "suffix": "s3" }, { "wildcard": "*.e?2" }] }), true),
            (json!({ "source": [{ "equals-ignore-case": "AWS.EC2" }] }), true),
            (json!({ "source": [{ "anything-but": ["aws.ec2"] }] }), false),
            (json!({ "source": [{ "anything-but": { "prefix": "aws." } }] }), false),
            (json!({ "detail": { "readOnly": [{ "anything-but": [true] }] } }), true),
            (json!({ "detail": { "readOnly": [false], "eventName": [{ "exists": false }] } }), true),
            (json!({ "detail": { "eventName": ["RunInstances"] } }), false),
            (json!({ "detail": { "bucket": { "name": ["trail"] } } }), false),
            (json!({ "$or": [{ "source": ["aws.s3"] }, { "detail": { "readOnly": [false] } }] }), true),
            (json!({ "detail": { "size": [{ "numeric": [">", 0] }] } }), false),
            (json!(null), false),
        ] {
            assert_eq!(meets(&pattern, &event), expected, "{pattern}");
        }
    }
}
