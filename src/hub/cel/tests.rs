//! What expressions mean, beside what the crate `cel` says they mean.

use cel::{Context, Value as CelValue};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::eval::eval;
use super::*;
use crate::model::EventHead;

fn event() -> Json {
    json!({
        "specversion": "1.0", "id": "e:0", "source": "//aws/1/r", "type": "io.catchment.asset.update",
        "subject": "asset://aws/1/r/ec2/security-group/sg-1", "time": "2023-07-10T12:10:05.000Z",
        "data": {
            "action": "update",
            "asset": {
                "name": "asset://aws/1/r/ec2/security-group/sg-1", "type": "network.security_group", "provider": "aws",
                "account": "1", "region": "r", "tags": { "env": "prod", "cost-center": "42" }, "arn": null,
            },
            "attribution": { "method": "terraform", "confidence": "high", "principal": { "id": "jane" }, "human": null },
            "associations": [{ "relation": "in", "type": "network.vpc", "id": "vpc-1" }],
            "configuration": {
                "open": true, "ports": [22, 443, 8080.5], "note": "caf\u{e9} \"au lait\"", "limit": 1e3, "nested": { "a": { "b": 1 } },
                "rules": [{ "cidr": "10.0.0.0/8", "ports": [22] }, { "cidr": "0.0.0.0/0", "ports": [80, 443] }, {}],
            },
            "previous_configuration": null,
            "changes": [{ "op": "add", "path": "/rules/1", "value": { "cidr": "0.0.0.0/0" } }, { "op": "remove", "path": "/a" }],
            "late": false, "observed": "2023-07-10T12:12:44.120Z", "raw": { "eventName": "AuthorizeSecurityGroupIngress" },
        },
    })
}

fn with_view<T>(event: &Json, ask: impl FnOnce(&View<'_>) -> T) -> T {
    let text = event.to_string();
    let head = EventHead::parse(text.as_bytes()).unwrap();
    ask(&View::new(&head, text.as_bytes()))
}

fn matches(text: &str) -> bool {
    let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    with_view(&event(), |view| expression.matches(view))
}

#[test]
fn what_an_analyst_asks() {
    for text in [
        r#"action == "update" && asset.type == "network.security_group""#,
        r#"data.asset.account == "1" && subject == data.asset.name && type.endsWith("update")"#,
        r#"attribution.method in ["terraform", "cli"] && attribution.principal.id != "root""#,
        r#"changes.exists(c, c.op == "add" && c.path.startsWith("/rules"))"#,
        r#"configuration.rules.exists(r, r.cidr == "0.0.0.0/0" && r.ports.exists(p, p in [22, 80]))"#,
        "configuration.open && size(configuration.ports) == 3 && configuration.ports[0] == 22",
        r#"asset.tags.env == "prod" && asset.tags["cost-center"] == "42" && "env" in asset.tags"#,
        r#"asset.name.matches("security-group/sg-[0-9]+$") && matches(asset.region, "^r$")"#,
        r#"time >= "2023-07-10" && time < "2023-07-11" && !late"#,
        r#"associations.filter(a, a.type == "network.vpc").size() == 1"#,
        r#"changes.map(c, c.path) == ["/rules/1", "/a"] && changes.map(c, c.op == "add", c.path).size() == 1"#,
        r#"changes.exists_one(c, c.op == "remove") && configuration.rules.filter(r, has(r.cidr)).size() == 2"#,
        r#"configuration.note.contains("caf\u00e9") && configuration.note.lowerAscii() == configuration.note"#,
        r#"raw.eventName.upperAscii().startsWith("AUTHORIZE")"#,
        "configuration.limit == 1000 && configuration.limit > 999.5 && 2 + 3 * 4 - 1 == 13 && 7 / 2 == 3 && 7 % 4 == 3",
        r#"(late ? "x" : "y") + "z" == "yz" && [1] + [2] == [1, 2] && -1 < 0 && 1.5 * 2.0 == 3.0"#,
        "configuration.rules.all(r, size(r) < 3) && asset.tags.all(name, size(name) > 2)",
    ] {
        assert!(matches(text), "{text}");
        assert!(!matches(&format!("!({text})")), "{text}");
    }
}

#[test]
fn what_is_not_there_is_null() {
    for text in [
        "attribution.human == null && attribution.human.id == null && asset.arn == null",
        r#"attribution.human.id != "jane@example.com""#,
        r#"asset.tags.owner != "security" && configuration.no.such.thing == null"#,
        "previous_configuration.open == null && previous_configuration == null && configuration.ports[9] == null",
        "has(configuration.open) && !has(configuration.closed) && !has(configuration.no.such) && has(data.raw)",
        "operation.name == null && !has(operation.name) && !has(data.operation)",
    ] {
        assert!(matches(text), "{text}");
    }
    // What can't be decided is not met, in either direction.
    for text in ["configuration.no > 1", "asset.type > 1", "configuration.ports.x == 1", "!asset.type", "asset.tags"] {
        assert!(!matches(text) && !matches(&format!("!({text})")), "{text}");
    }
    // One side may decide all the same.
    assert!(matches("configuration.no > 1 || action == 'update'"));
    assert!(matches("!(action == 'create' && configuration.no > 1)"));
    assert!(matches("configuration.rules.exists(r, r.cidr.endsWith('/0'))"), "the third rule has no cidr");
}

#[test]
fn what_can_not_be_meant_is_refused_where_it_stands() {
    for (text, column, reason) in [
        ("", 1, "end"),
        ("asset.typ == 'x'", 6, "there is no typ here"),
        ("acton == 'create'", 1, "an event has no acton; there are specversion, "),
        ("data.acton == 'create'", 5, "data has no acton"),
        ("late && data == 1", 9, "data is no value of its own"),
        ("changes.path == '/a'", 8, "path of a list"),
        ("changes.exists(c, c.pth == '/a')", 20, "there is no pth here"),
        ("changes[0].pth == '/a'", 11, "there is no pth here"),
        ("changes.filter(c, c.op == 'add').exists(c, c.pth == '/a')", 45, "there is no pth here"),
        ("asset['typ'] == 'x'", 6, "there is no typ here"),
        ("has(asset.typ)", 10, "there is no typ here"),
        ("has(late)", 5, "has() takes a member"),
        ("'é' == asset.name && nope", 22, "an event has no nope"),
        ("action == 'update' &&\n  nope", 3, "an event has no nope"),
        ("asset.name.foo()", 15, "foo can't be called like this; there are size"),
        ("size(1, 2) == 1", 5, "size can't be called"),
        ("asset.name.matches('(')", 20, "no pattern: unclosed group"),
        ("asset.name.matches('\\\\w{1000}{1000}')", 20, "no pattern: "),
        ("asset.name.matches(action)", 20, "the pattern of matches() is written out"),
        ("1u == 1", 1, "leave out the u"),
        ("b'x' == b'x'", 1, "leave out the b"),
        ("{'a': 1}.a == 1", 1, "maps can't be written"),
        ("action", 1, ""),
        ("asset", 1, "neither true nor false"),
        ("'x'", 1, "neither true nor false"),
        ("size(changes)", 5, "neither true nor false"),
        ("action = 'x'", 8, "token recognition error"),
        ("action == 'x' late", 15, "extraneous input 'late'"),
    ] {
        match Expression::compile(text) {
            Err(error) => {
                assert_eq!(error.column, column, "{text:?}: {error}");
                assert_eq!(error.line, text.matches('\n').count() + 1, "{text:?}: {error}");
                assert!(error.reason.contains(reason), "{text:?}: {error}");
            }
            Ok(_) => assert_eq!(reason, "", "{text:?} is compiled"),
        }
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let refused = |text: &str, reason: &str| {
        let error = Expression::compile(text).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    };
    refused(&format!("late{}", " ".repeat(MAX_BYTES)), "more than 2048 bytes");
    refused(&["late"; 200].join("||"), "more than 256 parts");
    refused(&format!("{}late{}", "(".repeat(60), ")".repeat(60)), "nested too deep");
    refused(&format!("late{}", ".a".repeat(60)), "nested too deep");
    refused(&format!("{} == 1", ["1"; 60].join("+")), "nested too deep");
    refused(&["action.matches('x')"; 9].join("||"), "more than 8 patterns");
    // Whatever fills the length that is allowed, it is read or refused.
    for part in [
        "(", "[", "!", "-", "!-", "!(", "a.", ".a", "a(", "a[", "a?", "a?b:", "1+", "!a&&", "{", "{'a':", "a.b(c,",
        "'", "\\",
    ] {
        let text = part.repeat(MAX_BYTES / part.len());
        let _ = Expression::compile(&text);
        let _ = Expression::compile(&format!("{}1", &text[..text.len() - part.len()]));
    }
    assert!(matches(&["action == 'update'"; 40].join(" && ")), "a long chain is not deep");
}

/// The steps run out, whatever the expression does; the event is sent then.
#[test]
fn no_expression_runs_for_long() {
    let mut event = event();
    let long: Vec<Json> = (0..2000).map(|number| json!({ "n": number, "text": "x".repeat(200) })).collect();
    event["data"]["configuration"]["rules"] = Json::from(long);
    let rules = "configuration.rules";
    for text in [
        format!("{rules}.all(a, {rules}.all(b, a.n >= 0 && b.n >= 0))"),
        format!("{rules}.map(a, {rules}).size() == 1"),
        format!("{rules}.map(a, {rules}.map(b, a)).size() == 1"),
        format!("{rules}.all(a, {rules} == {rules})"),
        format!("{rules}.exists(a, a.n < 0 || a in {rules}.map(b, b.text))"),
        format!("{rules}.all(a, {rules}.exists(b, b.text.matches('(x+x+)+y')) == false)"),
        format!("{rules}.all(a, {rules}.all(b, (a.text + b.text).size() > 1))"),
    ] {
        let expression = Expression::compile(&text).unwrap();
        with_view(&event, |view| {
            let started = std::time::Instant::now();
            assert!(matches!(eval(&expression.root, view, MAX_STEPS), Err(Undecided::Steps)), "{text}");
            let took = started.elapsed();
            assert!(took < std::time::Duration::from_secs(5), "{text}: {took:?}");
            assert!(expression.matches(view), "{text}");
        });
    }
    // Nor one that is cheap each time but looks at much.
    let sizes = Expression::compile(&format!("{rules}.exists(a, {rules} == [a])")).unwrap();
    assert!(!with_view(&event, |view| sizes.matches(view)));
    // What goes through a long list once is no cause for alarm.
    let once = Expression::compile(&format!("{rules}.all(r, r.n >= 0 && r.text.startsWith('x'))")).unwrap();
    assert!(with_view(
        &event,
        |view| matches!(eval(&once.root, view, MAX_STEPS), Ok(value) if matches!(*value, Value::Bool(true)))
    ));
}

#[test]
fn conditions_that_hold_are_told() {
    let required = |text: &str| {
        let expression = Expression::compile(text).unwrap();
        let found = expression.requirements();
        found.iter().map(|found| (found.field, found.texts.join(","))).collect::<Vec<_>>()
    };
    assert_eq!(required("asset.account == '1' && late"), [(Field::Account, "1".to_owned())]);
    assert_eq!(required("'1' == data.asset.account"), [(Field::Account, "1".to_owned())]);
    assert_eq!(required("asset.type in ['a', 'b']"), [(Field::AssetType, "a,b".to_owned())]);
    assert_eq!(required("action == 'create' || action in ['delete']"), [(Field::Action, "create,delete".to_owned())]);
    assert_eq!(required("attribution.human.id == 'a' || attribution.principal.arn == 'b'").len(), 1);
    for text in [
        "asset.account != '1'",
        "!(asset.account == '1')",
        "asset.account == '1' || late",
        "asset.account == asset.region",
        "asset.account == null",
        "changes.exists(asset, asset.value.account == '1')",
        "configuration.account == '1'",
        "late ? asset.account == '1' : true",
    ] {
        assert_eq!(required(text), [], "{text}");
    }
    // A text among others that are none: an account is never a number, so the rest decides.
    assert_eq!(required("asset.account in ['1', 2]"), [(Field::Account, "1".to_owned())]);
}

#[test]
fn names_of_loops_hide_and_are_left_behind() {
    assert!(matches("configuration.rules.exists(action, action.cidr == '10.0.0.0/8') && action == 'update'"));
    // The inner loop stops on an error; the outer goes on with its own element.
    assert!(matches("[[1, 'x'], [2]].exists(a, a.filter(b, b > 1).size() == 1 && a[0] == 2)"));
}

/// The event as the crate `cel` has it, under the names that expressions use.
fn context(event: &Json) -> Context<'static, 'static> {
    let mut context = Context::default();
    for (name, value) in event.as_object().unwrap().iter().chain(event["data"].as_object().unwrap()) {
        context.add_variable_from_value(name.as_str(), convert(value));
    }
    context
}

fn convert(json: &Json) -> CelValue {
    match json {
        Json::Null => CelValue::Null,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(convert).collect::<Vec<_>>().into(),
        Json::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), convert(value)))
            .collect::<std::collections::HashMap<_, _>>()
            .into(),
    }
}

/// Values of every kind, operators and functions, mixed so that some fit together.
fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "1",
        "2",
        "-3",
        "22",
        "1.5",
        "1000.0",
        "0",
        "true",
        "false",
        "null",
        "'x'",
        "'prod'",
        "'/a'",
        "''",
        "[1, 22]",
        "['prod', 'x']",
        "[]",
        "late",
        "action",
        "time",
        "asset.type",
        "asset.arn",
        "asset.tags",
        "asset.tags.env",
        "asset.tags.none",
        "attribution.human",
        "attribution.principal.id",
        "configuration",
        "configuration.open",
        "configuration.ports",
        "configuration.limit",
        "configuration.note",
        "configuration.nested.a.b",
        "configuration.rules",
        "configuration.rules[0].ports",
        "changes",
        "changes[1].path",
        "changes[5].path",
        "previous_configuration",
        "previous_configuration.x",
        "has(configuration.open)",
        "has(asset.arn)",
        "has(configuration.none)",
        "raw.eventName",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators =
            vec!["==", "!=", "<", "<=", ">", ">=", "&&", "||", "+", "-", "*", "/", "%", "in"];
        let two = (inner.clone(), prop::sample::select(operators), inner.clone());
        let loops = vec!["all", "exists", "exists_one", "filter", "map"];
        let looped = (inner.clone(), prop::sample::select(loops), inner.clone(), prop::sample::select(vec!["c", "c == 22", "c > 1", "c.op == 'add'", "size(c) > 1", "c.ports.exists(c, c == 443)"]));
        let methods = vec!["contains", "startsWith", "endsWith"];
        prop_oneof![
            4 => two.prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            1 => inner.clone().prop_map(|one| format!("!({one})")),
            1 => inner.clone().prop_map(|one| format!("size({one})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(list, at)| format!("({list})[{at}]")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => (inner.clone(), prop::sample::select(methods), inner.clone()).prop_map(|(a, method, b)| format!("({a}).{method}({b})")),
            2 => looped.prop_map(|(range, kind, free, body)| {
                let body = if free.len() % 3 == 0 { free } else { body.to_owned() };
                format!("({range}).{kind}(c, {body})")
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Wherever the crate has an answer, it is ours.
    #[test]
    fn what_cel_decides_is_decided_so(text in any_expression()) {
        let event = event();
        // Compared with itself in a list, so that what is no truth value is compiled as well.
        let Ok(expression) = Expression::compile(&format!("[{text}] != 1")) else { return Ok(()) };
        let program = cel::Program::compile(&text).unwrap();
        if let Ok(expected) = program.execute(&context(&event)) {
            let Node::Binary(_, nodes) = &expression.root else { panic!("{text}") };
            let given = with_view(&event, |view| match eval(&nodes[0], view, MAX_STEPS) {
                Ok(value) => match &*value {
                    Value::List(items) => Ok(to_json(&items[0])),
                    other => panic!("{other:?}"),
                },
                Err(error) => Err(error),
            });
            prop_assert_eq!(given.map(sorted), Ok(sorted(from_cel(&expected))), "{}", text);
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in "[a-z0-9 .,'\"()\\[\\]{}&|!=<>?:+*/%\\\\-]{0,40}|.{0,20}") {
        if let Ok(expression) = Expression::compile(&text) {
            let _ = with_view(&event(), |view| expression.matches(view));
        }
    }
}

/// The names of a map come in no particular order.
fn sorted(mut json: Json) -> Json {
    if let Json::Array(items) = &mut json {
        items.iter_mut().for_each(|item| *item = sorted(item.take()));
        items.sort_by_key(Json::to_string);
    }
    json
}

fn to_json(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(members) => {
            Json::Object(members.iter().map(|(name, value)| (name.to_string(), to_json(value))).collect())
        }
    }
}

fn from_cel(value: &CelValue) -> Json {
    match value {
        CelValue::Null => Json::Null,
        CelValue::Bool(value) => json!(value),
        CelValue::Int(value) => json!(value),
        CelValue::Float(value) => json!(value),
        CelValue::String(text) => json!(text.as_str()),
        CelValue::List(items) => items.iter().map(from_cel).collect(),
        CelValue::Map(map) => {
            let name = |key: &cel::objects::Key| match key {
                cel::objects::Key::String(name) => name.to_string(),
                other => panic!("{other:?}"),
            };
            Json::Object(map.map.iter().map(|(key, value)| (name(key), from_cel(value))).collect())
        }
        other => panic!("{other:?}"),
    }
}
