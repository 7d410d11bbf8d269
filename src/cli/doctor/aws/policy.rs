//! Resource policies: whether they allow an action to a service
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html>).

use serde_json::Value;

/// Whether a policy allows an action to a service on behalf of a resource: a bucket, a rule, a topic. Of conditions,
/// only those on `aws:SourceArn` are evaluated.
pub(super) fn admits(policy: Option<&Value>, action: &str, service: &str, source: &str) -> bool {
    let statements = policy.map(|policy| list(&policy["Statement"])).unwrap_or_default();
    statements.into_iter().any(|statement| {
        statement["Effect"] == "Allow"
            && allows(statement, action)
            && is_principal(&statement["Principal"], service)
            && is_source(&statement["Condition"], source)
    })
}

/// Whether a statement includes an action.
pub(super) fn allows(statement: &Value, action: &str) -> bool {
    let action = action.to_ascii_lowercase();
    texts(&statement["Action"]).any(|pattern| is_like(&pattern.to_ascii_lowercase(), &action))
}

fn is_principal(principal: &Value, service: &str) -> bool {
    *principal == "*"
        || texts(&principal["AWS"]).any(|principal| principal == "*")
        || texts(&principal["Service"]).any(|principal| principal == service)
}

fn is_source(condition: &Value, source: &str) -> bool {
    let operators = condition.as_object().into_iter().flatten();
    let mut asked = operators.flat_map(|(operator, keys)| {
        keys.as_object().into_iter().flatten().map(move |(key, values)| (operator, key.to_ascii_lowercase(), values))
    });
    asked.all(|(operator, key, values)| match key.as_str() {
        "aws:sourcearn" => {
            let is_met = texts(values).any(|pattern| is_like(pattern, source));
            if operator.contains("Not") { !is_met } else { is_met }
        }
        // A topic's default condition: it admits the owner's own callers, but no service.
        "aws:sourceowner" => false,
        _ => true,
    })
}

/// The texts in a value that is one text or a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).into_iter().filter_map(Value::as_str)
}

/// The values of a list, or a single value.
pub(super) fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().collect(),
        Value::Null => Vec::new(),
        value => vec![value],
    }
}

/// Whether a text matches a pattern, in which `*` stands for any text and `?` for any character.
pub(super) fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Which prefixes of the pattern match the text up to the current character.
    let mut met = vec![false; pattern.len() + 1];
    open(&mut met, &pattern, true);
    for found in text {
        let mut next = vec![false; met.len()];
        for (at, wanted) in pattern.iter().enumerate() {
            if met.get(at) == Some(&true) {
                let end = if *wanted == '*' { at } else { at + 1 };
                if let Some(place) = next.get_mut(end).filter(|_| matches!(wanted, '*' | '?') || *wanted == found) {
                    *place = true;
                }
            }
        }
        open(&mut next, &pattern, false);
        met = next;
    }
    met.last() == Some(&true)
}

/// A `*` matches the empty text as well.
fn open(met: &mut [bool], pattern: &[char], at_start: bool) {
    if let Some(first) = met.first_mut() {
        *first |= at_start;
    }
    for (at, wanted) in pattern.iter().enumerate() {
        if *wanted == '*'
            && met.get(at) == Some(&true)
            && let Some(next) = met.get_mut(at + 1)
        {
            *next = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_statement_admits_a_service_for_a_resource() {
        let policy = |condition: Value| {
            json!({ "Statement": { "Effect": "Allow", "Principal": { "Service": ["sns.amazonaws.com", "s3.amazonaws.com"] },
                                   "Action": "SQS:Send*", "Resource": "*", "Condition": condition } })
        };
        let ask = |policy: &Value| admits(Some(policy), "sqs:SendMessage", "s3.amazonaws.com", "arn:aws:s3:::trail");
        assert!(ask(&policy(Value::Null)));
        assert!(ask(&policy(json!({ "ArnLike": { "AWS:SourceArn": ["x", "arn:*:s3:::tr?il"] } }))));
        assert!(ask(&policy(json!({ "StringEquals": { "aws:SourceAccount": "111122223333" } }))), "not ours to judge");
        assert!(!ask(&policy(json!({ "ArnEquals": { "aws:SourceArn": "arn:aws:s3:::other" } }))));
        assert!(!ask(&policy(json!({ "ArnNotLike": { "aws:SourceArn": "arn:aws:s3:::t*" } }))));
        assert!(!ask(&policy(json!({ "StringEquals": { "AWS:SourceOwner": "111122223333" } }))), "a topic's default");
        let other = policy(Value::Null);
        assert!(!admits(Some(&other), "sqs:SendMessage", "events.amazonaws.com", "x"));
        assert!(!admits(Some(&other), "sns:Publish", "s3.amazonaws.com", "x"));
        assert!(!admits(None, "sqs:SendMessage", "s3.amazonaws.com", "x"));
        assert!(ask(&json!({ "Statement": [{ "Effect": "Allow", "Principal": "*", "Action": ["*"] }] })));
        assert!(!ask(&json!({ "Statement": [{ "Effect": "Deny", "Principal": "*", "Action": ["*"] }] })));
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("?", "é", true),
            ("a", "ab", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }
}
