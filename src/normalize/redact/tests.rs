use super::*;
use crate::json::Arena;
use proptest::prelude::*;
use serde_json::json;

fn names() -> Secrets {
    Secrets::named(["sessionToken", "password", "userData"])
}

fn sanitized(text: &str) -> String {
    sanitize(text, &names(), &[]).unwrap().into_owned()
}

#[test]
fn secrets_go_whatever_they_are_and_the_rest_stays_to_the_byte() {
    for (text, expected) in [
        (r#"{"a": 1.50, "Password" : "x\"y", "z":[1]}"#, r#"{"a": 1.50, "Password" : "[redacted]", "z":[1]}"#),
        (r#"{"password":{"a":["}"]},"b":1}"#, r#"{"password":"[redacted]","b":1}"#),
        (r#"{"pass\u0077ord":-1.5e3}"#, r#"{"pass\u0077ord":"[redacted]"}"#),
        (r#"{"password":null,"userData":false}"#, r#"{"password":null,"userData":false}"#),
        (r#"{"password":""}"#, r#"{"password":""}"#),
        (r#"{"a":"password"}"#, r#"{"a":"password"}"#),
        (r#"{"a":"{\"password\":\"x\",\"b\":1}"}"#, r#"{"a":"{\"password\":\"[redacted]\",\"b\":1}"}"#),
        ("{\n  \"a\": [\r\n1,\n 2]\n}", r#"{"a": [1,2]}"#),
        (r#"{"a":"\ud83d\ude00\\"}"#, r#"{"a":"\ud83d\ude00\\"}"#),
    ] {
        assert_eq!(sanitized(text), expected, "{text}");
    }
    assert!(matches!(sanitize(r#"{"a":1}"#, &names(), &[]), Ok(Cow::Borrowed(_))));
}

#[test]
fn pointers_of_rules() {
    let path = Path::parse("/requestParameters/environment/*/value").unwrap();
    let text = r#"{"requestParameters":{"Environment":[{"name":"A","value":"s"},{"value":null},{"value":7}]}}"#;
    let expected = r#"{"requestParameters":{"Environment":[{"name":"A","value":"[redacted]"},{"value":null},{"value":"[redacted]"}]}}"#;
    assert_eq!(sanitize(text, &names(), &[&path]).unwrap(), expected);
    let arena = Arena::new();
    let leads = |text| leads_to_secret(&path, Json::parse(text, &arena).unwrap());
    assert!(leads(text) && leads(r#"{"requestParameters":{"environment":"{}"}}"#));
    assert!(!leads(r#"{"requestParameters":{"environment":[{"name":"A","value":null}],"value":"x"}}"#));
}

#[test]
fn pointers_lead_into_json_in_texts() {
    let path = Path::parse("/properties/requestBody/properties/*").unwrap();
    let text = r#"{"properties":{"requestbody":"{\"a\":1,\"properties\":{\"KEY\":\"s\",\"N\":null}}"}}"#;
    let expected = r#"{"properties":{"requestbody":"{\"a\":1,\"properties\":{\"KEY\":\"[redacted]\",\"N\":null}}"}}"#;
    assert_eq!(sanitize(text, &names(), &[&path]).unwrap(), expected);
    assert!(matches!(
        sanitize(r#"{"properties":{"requestbody":"no json"}}"#, &names(), &[&path]),
        Ok(Cow::Borrowed(_))
    ));
}

#[test]
fn a_text_that_is_no_json_loses_its_secrets_all_the_same() {
    for (text, expected) in [
        (r#"{"password":"x","a":"#, Some(r#"{"password":"[redacted]","a":"#)),
        (r#"{"password":"cut o"#, Some(r#"{"password":"[redacted]""#)),
        (r#"garbage "userData" : {"b":[1"#, Some(r#"garbage "userData" : "[redacted]""#)),
        ("{\"a\":\n\"\\ud800\"", None),
    ] {
        assert_eq!(sanitize_rejected(text, &names(), &[]).as_deref(), expected, "{text}");
    }
}

fn part(names: &[&str], pointers: &[&str], patterns: &[&str]) -> Redaction {
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Redaction { names: own(names), pointers: own(pointers), patterns: own(patterns) }
}

/// The built-in list.
fn built_in() -> Redaction {
    toml::from_str(include_str!("../../../normalizers/aws/redact.toml")).unwrap()
}

#[test]
fn names_by_their_end() {
    let secrets = Secrets::compile(&[&part(&["*Password", "pin"], &[], &[])]).unwrap();
    for name in ["password", "DB_PASSWORD", "rootpassword", "PIN"] {
        assert!(secrets.contains(name), "{name}");
    }
    for name in ["passwords", "assword", "spin", ""] {
        assert!(!secrets.contains(name), "{name}");
    }
}

#[test]
fn texts_that_look_like_secrets_lose_them() {
    let secrets = Secrets::compile(&[&built_in()]).unwrap();
    for (text, expected) in [
        (
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0;EndpointSuffix=x",
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=[redacted];EndpointSuffix=x",
        ),
        (
            "Endpoint=sb://a.example.com/;SharedAccessKeyName=Root;SharedAccessKey=abc/def+1=",
            "Endpoint=sb://a.example.com/;SharedAccessKeyName=Root;SharedAccessKey=[redacted]",
        ),
        ("https://a.example.com/c?sv=2022&sig=abc%2Bdef&se=1", "https://a.example.com/c?sv=2022&sig=[redacted]&se=1"),
        (
            "https://b.example.com/?X-Amz-Credential=AKIA&X-Amz-Signature=0123abcd",
            "https://b.example.com/?X-Amz-Credential=AKIA&X-Amz-Signature=[redacted]",
        ),
        ("git clone https://jane:hunter2@example.com/a.git", "git clone https://jane:[redacted]@example.com/a.git"),
        ("Authorization: Bearer abcdefghijklmnop123", "Authorization: Bearer [redacted]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----[redacted]-----END RSA PRIVATE KEY-----",
        ),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln", "[redacted]"),
        ("mysql -u root --password=hunter2 db", "mysql -u root --password=[redacted] db"),
    ] {
        let json = Value::String(text.to_owned()).to_string();
        let told = sanitize(&json, &secrets, &[]).unwrap();
        assert_eq!(serde_json::from_str::<String>(&told).unwrap(), expected);
        assert!(matches!(sanitize(&told, &secrets, &[]), Ok(Cow::Borrowed(_))), "redacted once: {told}");
        let nested = json!({ "body": json!({ "a": text }).to_string() }).to_string();
        let told = sanitize(&nested, &secrets, &[]).unwrap().into_owned();
        assert_eq!(told, json!({ "body": json!({ "a": expected }).to_string() }).to_string());
        assert!(sanitize_rejected(&format!("{text} {{"), &secrets, &[]).unwrap().contains(expected), "{text}");
    }
    for harmless in [
        "arn:aws:iam::111122223333:role/a",
        "https://example.com:8443/a?b=c",
        "2026-01-31T12:00:00Z",
        "NextToken",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "a secret",
        "SharedAccessKeyName=Root",
    ] {
        assert!(!secrets.matches(harmless), "{harmless}");
    }
}

#[test]
fn an_operators_own_are_found_in_json_in_texts_too() {
    let own = part(&[], &["/a/*/pin"], &["^acme-[0-9]+$"]);
    let secrets = Secrets::compile(&[&built_in(), &own]).unwrap();
    let record =
        json!({ "a": [{ "pin": 1234, "b": "acme-77" }], "c": "{\"d\":\"acme-78\"}", "e": "no acme-1" }).to_string();
    let expected =
        json!({ "a": [{ "pin": "[redacted]", "b": "[redacted]" }], "c": "{\"d\":\"[redacted]\"}", "e": "no acme-1" });
    assert_eq!(sanitize(&record, &secrets, &[]).unwrap(), expected.to_string());
    let arena = Arena::new();
    assert!(secrets.lead_to_something(Json::parse(&record, &arena).unwrap()));
    assert!(secrets.may_be_in_json("{\"d\":\"acme-78\"}"));
}

#[test]
fn mistakes_name_their_key() {
    let mistakes = part(&["a*b", ""], &["no pointer", ""], &["(", "x*"]).mistakes();
    let keys: Vec<_> = mistakes.iter().map(|mistake| mistake.key).collect();
    assert_eq!(keys, ["names", "names", "pointers", "pointers", "patterns", "patterns"], "{mistakes:?}");
    assert!(part(&["*pin"], &["/a/*"], &["a+"]).mistakes().is_empty());
}

#[test]
fn unfit_texts() {
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    assert_eq!(sanitize(&deep, &names(), &[]), Err(UnfitText::TooDeep));
    assert_eq!(sanitize(r#"{"a":"\ud800"}"#, &names(), &[]), Err(UnfitText::LoneSurrogate { at: 6 }));
    assert_eq!(sanitize(r#"{"a":"\ude00\ud83d"}"#, &names(), &[]), Err(UnfitText::LoneSurrogate { at: 6 }));
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        "planted-[a-z]{4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("(password|a|b|userData|x\"y)", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The specification: the value of every secret member is replaced, and nothing else.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let secret = ["password", "userData"].contains(&key.as_str());
                let kept = value.is_null() || value.is_boolean() || *value == json!("");
                (key.clone(), if secret && !kept { json!("[redacted]") } else { redacted(value) })
            })
            .collect(),
        Value::Array(elements) => elements.iter().map(redacted).collect(),
        scalar => scalar.clone(),
    }
}

proptest! {
    #[test]
    fn does_what_it_says(value in arbitrary_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let out = sanitized(&text);
        prop_assert!(!out.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), redacted(&value));
    }

    #[test]
    fn never_panics(text in "[\\[\\]{}\":,\\\\ud8a0-9p ]{0,60}") {
        let _ = sanitize(&text, &names(), &[]);
    }
}
